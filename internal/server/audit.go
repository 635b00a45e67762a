package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
	"k8s.io/apimachinery/pkg/util/uuid"

	"knarr.dev/knarr/internal/auth/webhook"
	"knarr.dev/knarr/internal/security/audit"
	"knarr.dev/knarr/internal/store/traced"
	"knarr.dev/knarr/internal/tracing"
)

// auditWebhookLimit of one try to send events; upstream's figure.
const auditWebhookLimit = 30 * time.Second

// wireAudit opens what the policy's events go to.
func (s *control) wireAudit() error {
	c := &s.cfg.Audit
	if c.Policy == "" {
		return nil
	}
	policy, err := audit.OpenPolicy(c.Policy, s.log)
	if err != nil {
		return fmt.Errorf("--audit-policy-file: %w", err)
	}
	var outputs []audit.Output
	if c.Log.Path != "" {
		o := c.LogOutput.output("log")
		o.Legacy = c.LogFormat == "legacy"
		if o.Send, err = c.Log.Open(); err != nil {
			return fmt.Errorf("--audit-log-path: %w", err)
		}
		outputs = append(outputs, o)
	}
	if c.Webhook != "" {
		client, err := webhook.Open(c.Webhook, auditWebhookLimit)
		if err != nil {
			return fmt.Errorf("--audit-webhook-config-file: %w", err)
		}
		o := c.WebhookOutput.output("webhook")
		o.Parallel, o.Send = true, audit.Webhook(client.Post, c.WebhookBackoff)
		outputs = append(outputs, o)
	}
	s.audit, err = audit.New(audit.Config{Policy: policy, Outputs: outputs, Log: s.log, ID: func() string { return string(uuid.NewUUID()) }})
	return err
}

// wireTracing makes spans of what is asked of the store, if spans are wanted.
func (s *control) wireTracing() error {
	if s.cfg.TracingConfig == "" {
		return nil
	}
	c, err := tracing.Read(s.cfg.TracingConfig)
	if err == nil {
		s.spans, err = tracing.Open(c, s.cfg.NodeName)
	}
	if err != nil {
		return fmt.Errorf("--tracing-config-file: %w", err)
	}
	s.store = traced.New(s.store)
	return nil
}

// tracer is nil if spans are not wanted.
func (s *control) tracer() trace.TracerProvider {
	if s.spans == nil {
		return nil
	}
	return s.spans
}

// outlast runs what has to see the end of everything else; stop ends that.
func (s *control) outlast(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		if s.audit == nil {
			done <- nil
			return
		}
		done <- s.audit.Run(ctx)
	}()
	return func() error {
		cancel()
		err := <-done
		if s.spans != nil {
			err = errors.Join(err, s.spans.Close())
		}
		return err
	}
}
