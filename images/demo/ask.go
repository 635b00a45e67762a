package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxAsks    = 1000
	askTimeout = 2 * time.Second
	usage      = "usage: demo [get COUNT URL | lookup NAME]"
)

// ask is the other end of the demo, for looking at the network from inside a
// pod that has no shell: `demo get COUNT URL` fetches over fresh connections
// and prints the first line of each answer, `demo lookup NAME` its addresses.
func ask(args []string, out io.Writer) error {
	switch {
	case len(args) == 3 && args[0] == "get":
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 1 || n > maxAsks {
			return fmt.Errorf("count is 1 to %d; %s", maxAsks, usage)
		}
		return fetch(n, args[2], out)
	case len(args) == 2 && args[0] == "lookup":
		ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
		defer cancel()
		addrs, err := net.DefaultResolver.LookupHost(ctx, args[1])
		slices.Sort(addrs)
		for _, a := range addrs {
			fmt.Fprintln(out, a)
		}
		return err
	}
	return errors.New(usage)
}

func fetch(n int, url string, out io.Writer) error {
	c := &http.Client{Timeout: askTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	var last error
	for range n {
		resp, err := c.Get(url)
		if err != nil {
			last = err
			fmt.Fprintln(out, "failed:", err)
			continue
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		_ = resp.Body.Close()
		if err != nil {
			last = err
			continue
		}
		line, _, _ := strings.Cut(string(body), "\n")
		fmt.Fprintln(out, line)
	}
	return last
}
