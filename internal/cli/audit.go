package cli

import (
	"github.com/spf13/cobra"

	"knarr.dev/knarr/internal/server"
)

// auditFlags have upstream's names and defaults.
func (o *startOptions) auditFlags(cmd *cobra.Command) {
	f, a := cmd.Flags(), &o.cfg.Audit
	*a = server.DefaultAudit()
	f.StringVar(&o.cfg.TracingConfig, "tracing-config-file", "", "file of a TracingConfiguration: where spans of requests are sent")
	f.StringVar(&a.Policy, "audit-policy-file", "", "file of an audit Policy: what is written down about requests; changes are taken while running")
	f.StringVar(&a.Log.Path, "audit-log-path", "", "file of the audit log; - is standard output")
	f.StringVar(&a.LogFormat, "audit-log-format", a.LogFormat, "json or legacy (lines of text)")
	f.IntVar(&a.Log.MaxSize, "audit-log-maxsize", a.Log.MaxSize, "MiB after which the log file is rotated; 0: never")
	f.IntVar(&a.Log.MaxAge, "audit-log-maxage", a.Log.MaxAge, "days that rotated files are kept; 0: for ever")
	f.IntVar(&a.Log.MaxBackups, "audit-log-maxbackup", a.Log.MaxBackups, "rotated files that are kept; 0: all")
	f.BoolVar(&a.Log.Compress, "audit-log-compress", false, "compress rotated files")
	auditOutputFlags(cmd, "log", &a.LogOutput)
	f.StringVar(&a.Webhook, "audit-webhook-config-file", "", "kubeconfig of a webhook that is sent the audit events")
	f.DurationVar(&a.WebhookBackoff, "audit-webhook-initial-backoff", a.WebhookBackoff, "pause before events are sent the second time")
	auditOutputFlags(cmd, "webhook", &a.WebhookOutput)
}

func auditOutputFlags(cmd *cobra.Command, name string, o *server.AuditOutput) {
	f, b, t := cmd.Flags(), &o.Batching, &o.Truncate
	name = "audit-" + name
	f.StringVar(&o.Mode, name+"-mode", o.Mode, "batch, blocking (requests wait until their events are written) or blocking-strict (they fail if that fails)")
	f.IntVar(&b.Buffer, name+"-batch-buffer-size", b.Buffer, "events that may wait, in mode batch; more are lost")
	f.IntVar(&b.Size, name+"-batch-max-size", b.Size, "events that are sent at once")
	f.DurationVar(&b.Wait, name+"-batch-max-wait", b.Wait, "how long fewer events wait")
	f.BoolVar(&b.Throttle, name+"-batch-throttle-enable", b.Throttle, "limit the batches per second")
	f.Float64Var(&b.QPS, name+"-batch-throttle-qps", b.QPS, "batches per second")
	f.IntVar(&b.Burst, name+"-batch-throttle-burst", b.Burst, "batches that may come at once")
	f.BoolVar(&t.Enabled, name+"-truncate-enabled", t.Enabled, "shorten long events")
	f.IntVar(&t.MaxBatch, name+"-truncate-max-batch-size", t.MaxBatch, "bytes after which a batch is sent")
	f.IntVar(&t.MaxEvent, name+"-truncate-max-event-size", t.MaxEvent, "bytes of an event from which on it loses its objects, or is lost")
}
