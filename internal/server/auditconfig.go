package server

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"knarr.dev/knarr/internal/security/audit"
	"knarr.dev/knarr/internal/tracing"
)

// AuditConfig is what is written down about requests, and where. Paths may be
// relative to the working directory.
type AuditConfig struct {
	// Policy is the file of a Policy of audit.k8s.io/v1; changes are taken while
	// running. Empty: nothing is written.
	Policy string

	Log       audit.File // the path is empty for none
	LogFormat string     // json or legacy
	LogOutput AuditOutput

	// Webhook is a kubeconfig of who is sent the events; empty: nobody.
	// WebhookBackoff comes before the second try.
	Webhook        string
	WebhookBackoff time.Duration
	WebhookOutput  AuditOutput
}

// AuditOutput is how events reach an output.
type AuditOutput struct {
	Mode     string
	Batching audit.Batching
	Truncate audit.Truncation
}

// DefaultAudit has upstream's figures.
func DefaultAudit() AuditConfig {
	truncate := audit.Truncation{MaxBatch: 10 << 20, MaxEvent: 100 << 10}
	return AuditConfig{
		Log: audit.File{MaxSize: 100, MaxAge: 366, MaxBackups: 100}, LogFormat: "json",
		LogOutput:      AuditOutput{Mode: string(audit.Blocking), Batching: audit.Batching{Buffer: 10000, Size: 1}, Truncate: truncate},
		WebhookBackoff: 10 * time.Second,
		WebhookOutput: AuditOutput{Mode: string(audit.Batch), Truncate: truncate,
			Batching: audit.Batching{Buffer: 10000, Size: 400, Wait: 30 * time.Second, Throttle: true, QPS: 10, Burst: 15}},
	}
}

func (c *AuditConfig) complete() error {
	outputs := c.Log.Path != "" || c.Webhook != ""
	switch {
	case c.Policy == "" && outputs:
		return fmt.Errorf("--audit-log-path and --audit-webhook-config-file go with --audit-policy-file, which says what is written there")
	case c.Policy == "":
		return nil
	case !outputs:
		return fmt.Errorf("--audit-policy-file goes with --audit-log-path or --audit-webhook-config-file, which say where to write")
	}
	if err := absolute("--audit-policy-file", &c.Policy); err != nil {
		return err
	}
	if _, err := audit.OpenPolicy(c.Policy, slog.New(slog.DiscardHandler)); err != nil {
		return fmt.Errorf("--audit-policy-file: %w", err)
	}
	if c.Log.Path != "" {
		if err := c.completeLog(); err != nil {
			return err
		}
	}
	if c.Webhook == "" {
		return nil
	}
	if c.WebhookBackoff <= 0 {
		return fmt.Errorf("--audit-webhook-initial-backoff %s is not positive", c.WebhookBackoff)
	}
	if err := absolute("--audit-webhook-config-file", &c.Webhook); err != nil {
		return err
	}
	return c.WebhookOutput.check("webhook")
}

func (c *AuditConfig) completeLog() error {
	if c.LogFormat != "json" && c.LogFormat != "legacy" {
		return fmt.Errorf("--audit-log-format %q is neither json nor legacy", c.LogFormat)
	}
	for _, n := range []struct {
		flag string
		v    int
	}{{"--audit-log-maxage", c.Log.MaxAge}, {"--audit-log-maxbackup", c.Log.MaxBackups}, {"--audit-log-maxsize", c.Log.MaxSize}} {
		if n.v < 0 {
			return fmt.Errorf("%s %d can't be a negative number", n.flag, n.v)
		}
	}
	if c.Log.Path != "-" {
		path, err := filepath.Abs(c.Log.Path)
		if err == nil {
			if st, serr := os.Stat(path); serr == nil && st.IsDir() {
				err = fmt.Errorf("%s is a directory", path)
			}
		}
		if err != nil {
			return fmt.Errorf("--audit-log-path: %w", err)
		}
		c.Log.Path = path
	}
	return c.LogOutput.check("log")
}

// check one output; name is part of its flags.
func (o *AuditOutput) check(name string) error {
	flag := "--audit-" + name
	b, t := o.Batching, o.Truncate
	switch audit.Mode(o.Mode) {
	case audit.Blocking, audit.BlockingStrict:
	case audit.Batch:
		switch {
		case b.Buffer <= 0:
			return fmt.Errorf("%s-batch-buffer-size %d must be a positive number", flag, b.Buffer)
		case b.Size <= 0:
			return fmt.Errorf("%s-batch-max-size %d must be a positive number", flag, b.Size)
		case b.Size > 1 && b.Wait <= 0:
			return fmt.Errorf("%s-batch-max-wait %s must be positive", flag, b.Wait)
		case b.Throttle && b.QPS <= 0:
			return fmt.Errorf("%s-batch-throttle-qps %g must be a positive number", flag, b.QPS)
		case b.Throttle && b.Burst <= 0:
			return fmt.Errorf("%s-batch-throttle-burst %d must be a positive number", flag, b.Burst)
		}
	default:
		return fmt.Errorf("%s-mode %q is none of batch, blocking, blocking-strict", flag, o.Mode)
	}
	switch {
	case t.MaxEvent <= 0:
		return fmt.Errorf("%s-truncate-max-event-size %d must be a positive number", flag, t.MaxEvent)
	case t.MaxBatch < t.MaxEvent:
		return fmt.Errorf("%s-truncate-max-batch-size %d must be greater than %s-truncate-max-event-size (%d)", flag, t.MaxBatch, flag, t.MaxEvent)
	}
	return nil
}

// output with what sends its events.
func (o *AuditOutput) output(name string) audit.Output {
	return audit.Output{Name: name, Mode: audit.Mode(o.Mode), Batching: o.Batching, Truncate: o.Truncate}
}

// absolute makes a file's path independent of the working directory; the file
// must be there.
func absolute(flag string, file *string) error {
	abs, err := filepath.Abs(*file)
	if err == nil {
		_, err = os.Stat(abs)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	*file = abs
	return nil
}

// completeTracing checks the TracingConfiguration, if there is one.
func (c *Config) completeTracing() error {
	if c.TracingConfig == "" {
		return nil
	}
	if err := absolute("--tracing-config-file", &c.TracingConfig); err != nil {
		return err
	}
	if _, err := tracing.Read(c.TracingConfig); err != nil {
		return fmt.Errorf("--tracing-config-file: %w", err)
	}
	return nil
}
