package dra

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	drahealthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
)

const (
	// Upstream's figures: how long a report is believed if it does not say so
	// itself, when a stream that ended is begun anew, and how many devices of a
	// driver are remembered.
	reportFor   = 30 * time.Second
	healthRetry = 5 * time.Second
	maxReports  = 16384
)

type deviceName struct{ pool, device string }

// report of a device's health.
type report struct {
	health  corev1.ResourceHealthStatus
	message string
	until   time.Time
}

// followHealth listens to what a plugin says of its devices until ctx ends, or
// the plugin has nothing to say.
func (c *Claims) followHealth(ctx context.Context, p *plugin, method string) {
	for {
		err := c.listen(ctx, p, method)
		c.report(p, nil, time.Now())
		if status.Code(err) == codes.Unimplemented {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(healthRetry):
		}
	}
}

func (c *Claims) listen(ctx context.Context, p *plugin, method string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&drahealthv1.NodeWatchResourcesRequest{}); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		var said drahealthv1.NodeWatchResourcesResponse
		if err := stream.RecvMsg(&said); err != nil {
			return err
		}
		c.report(p, said.Devices, time.Now())
	}
}

// report what a plugin says of all of its devices; none: its stream has ended.
func (c *Claims) report(p *plugin, devices []*drahealthv1.DeviceHealth, now time.Time) {
	changed := map[deviceName]bool{}
	c.mu.Lock()
	old := p.health
	p.health = map[deviceName]report{}
	for _, d := range devices[:min(len(devices), maxReports)] {
		name := deviceName{d.GetDevice().GetPoolName(), d.GetDevice().GetDeviceName()}
		r := reportOf(d, now)
		p.health[name] = r
		if was, ok := old[name]; !ok || was.health != r.health || was.message != r.message {
			changed[name] = true
		}
	}
	for name, r := range old {
		if _, said := p.health[name]; said {
			continue
		}
		if len(devices) > 0 && now.Before(r.until) && len(p.health) < maxReports {
			p.health[name] = r // what is left out is believed until its time is over
			continue
		}
		changed[name] = true
	}
	pods := c.using(p.driver, changed)
	c.mu.Unlock()
	if len(devices) > maxReports {
		c.cfg.Log.Error("a driver reports more devices than are remembered", "driver", p.driver, "limit", maxReports, "devices", len(devices))
	}
	if len(pods) > 0 {
		c.cfg.Health(pods)
	}
}

func reportOf(d *drahealthv1.DeviceHealth, now time.Time) report {
	r := report{health: corev1.ResourceHealthStatusUnknown, until: now.Add(reportFor), message: strings.ToValidUTF8(d.Message, "")}
	switch d.Health {
	case drahealthv1.HealthStatus_HEALTHY:
		r.health = corev1.ResourceHealthStatusHealthy
	case drahealthv1.HealthStatus_UNHEALTHY:
		r.health = corev1.ResourceHealthStatusUnhealthy
	}
	if s := d.HealthCheckTimeoutSeconds; s > 0 {
		r.until = now.Add(time.Duration(min(s, int64(24*time.Hour/time.Second))) * time.Second)
	}
	if len(r.message) > corev1.ResourceHealthMessageMaxLength {
		r.message = strings.ToValidUTF8(r.message[:corev1.ResourceHealthMessageMaxLength-3], "") + "..."
	}
	return r
}

// using are the pods that have such devices; the caller holds the lock.
func (c *Claims) using(driver string, devices map[deviceName]bool) []types.UID {
	if len(devices) == 0 {
		return nil
	}
	pods := map[types.UID]bool{}
	for _, cl := range c.claims {
		for _, d := range cl.Drivers[driver] {
			if devices[deviceName{d.Pool, d.Device}] {
				for _, pod := range cl.Pods {
					pods[pod] = true
				}
			}
		}
	}
	return slices.Collect(maps.Keys(pods))
}

// Health of the devices of a container, for its status.
func (c *Claims) Health(pod *corev1.Pod, ct *corev1.Container) []corev1.ResourceStatus {
	list, err := uses(pod, ct)
	if err != nil || len(list) == 0 {
		return nil
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []corev1.ResourceStatus
	for _, u := range list {
		cl := c.claims[u.claim]
		if cl == nil || u.ref.Name == "" {
			continue
		}
		st := corev1.ResourceStatus{Name: corev1.ResourceName("claim:" + u.ref.Name)}
		if u.request != "" {
			st.Name += corev1.ResourceName("/" + u.request)
		}
		seen := map[corev1.ResourceID]bool{}
		for d, driver := range cl.devices(u.request) {
			h := c.healthOf(d, driver, now)
			if !seen[h.ResourceID] {
				st.Resources = append(st.Resources, h)
			}
			seen[h.ResourceID] = true
		}
		if len(st.Resources) > 0 {
			out = append(out, st)
		}
	}
	return out
}

// healthOf a device; the caller holds the lock.
func (c *Claims) healthOf(d *device, driver string, now time.Time) corev1.ResourceHealth {
	h := corev1.ResourceHealth{Health: corev1.ResourceHealthStatusUnknown, ResourceID: corev1.ResourceID(fmt.Sprintf("%s/%s/%s", driver, d.Pool, d.Device))}
	if len(d.IDs) > 0 {
		h.ResourceID = corev1.ResourceID(d.IDs[0])
	}
	for _, p := range slices.Backward(c.drivers[driver]) {
		r, ok := p.health[deviceName{d.Pool, d.Device}]
		if !ok || !now.Before(r.until) {
			continue
		}
		h.Health = r.health
		if r.message != "" {
			h.Message = &r.message
		}
		break
	}
	return h
}
