package cronjob

import (
	"testing"
	"time"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/metricstest"
)

func TestSkew(t *testing.T) {
	w := world()
	w.Put(kinds.CronJob, fresh(w))
	c := Controller()
	if _, err := w.Drive(1, 1000, 3*time.Hour, c, jobs(time.Minute)); err != nil {
		t.Fatal(err)
	}
	made := 0
	for _, text := range w.Writes {
		if len(text) > 6 && text[:6] == "create" {
			made++
		}
	}
	if n := metricstest.Values(t, c.Metrics...)["cronjob_controller_job_creation_skew_duration_seconds"]; made < 2 || n != float64(made) {
		t.Errorf("%v are noted, %d jobs were made", n, made)
	}
}
