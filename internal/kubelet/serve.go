package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// listen takes the port before anything else is started, so that a port in use
// is the first thing that a user reads.
func (k *Kubelet) listen(ctx context.Context) (net.Listener, error) {
	if k.cfg.TLS == nil {
		return nil, nil // no identity, no API: for tests of the rest
	}
	if k.cfg.Listen != nil {
		return k.cfg.Listen, nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("", portText(k.cfg.Port)))
	if err != nil {
		return nil, fmt.Errorf("kubelet: cannot listen on port %d: %w", k.cfg.Port, err)
	}
	return l, nil
}

func (k *Kubelet) serve(ctx context.Context, l net.Listener) error {
	conf := k.cfg.TLS.Clone()
	conf.ClientAuth = tls.RequestClientCert // verified per request: a token will do too
	if conf.MinVersion < tls.VersionTLS12 {
		conf.MinVersion = tls.VersionTLS12
	}
	conf.NextProtos = []string{"http/1.1"} // streams are upgrades
	srv := &http.Server{
		Handler: k.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: quiet(k.cfg.Log),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	err := srv.Serve(tls.NewListener(l, conf))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
