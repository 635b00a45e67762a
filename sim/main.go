// The simulation runs the control plane, the real apiserver, controllers and
// scheduler, on the in-memory store with hollow nodes, single-threaded, under
// a seed and in virtual time. Processes crash, what they see is late and out
// of order between kinds, nodes vanish and come back, users do as users do.
// What may never happen is checked with each commit; every thousand steps the
// faults pause and the cluster has to become what was asked for.
package main

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, out, errs io.Writer) int {
	f := flag.NewFlagSet("sim", flag.ContinueOnError)
	f.SetOutput(errs)
	seed := f.Uint64("seed", uint64(time.Now().UnixNano()), "the seed; a failing one is printed")
	steps := f.Int("steps", 10000, "how many steps")
	plant := f.String("plant", "", "a bug to plant: "+strings.Join(plants(), ", "))
	trace := f.Bool("trace", false, "print what happens")
	logs := f.Bool("log", false, "print what the components log")
	if err := f.Parse(args); err != nil {
		return 2
	}
	c := config{seed: *seed, steps: *steps, plant: *plant}
	if *trace {
		c.trace = func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	}
	if *logs {
		c.log = slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
	}
	begin := time.Now()
	w, err := newWorld(c)
	if err == nil {
		err = w.run()
	}
	if err != nil {
		fmt.Fprintf(errs, "FAILED: %v\n", err)
		return 1
	}
	fmt.Fprintf(out, "seed %d: %d steps, %d commits, %v of cluster time in %v: all invariants hold\n",
		*seed, *steps, w.pumped, w.now.Sub(start).Round(time.Second), time.Since(begin).Round(time.Millisecond))
	return 0
}
