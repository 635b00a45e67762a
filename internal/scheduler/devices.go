package scheduler

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/structured"

	"knarr.dev/knarr/internal/kinds"
)

// devices is what decisions look at of devices: what there is, and what of it
// claims have, those included that pods on their way were promised.
type devices struct {
	deviceClaims   map[string]*resourcev1.ResourceClaim // by namespace/name
	deviceClasses  map[string]*resourcev1.DeviceClass
	resourceSlices map[string]*resourcev1.ResourceSlice
	taintRules     map[string]*resourcev1.DeviceTaintRule
	// offered are the slices with the taints that rules add, by name; nil: to be
	// made anew.
	offered []*resourcev1.ResourceSlice
	// standsFor are the classes by extended resources; nil: to be made anew.
	standsFor map[corev1.ResourceName]*resourcev1.DeviceClass
	madeFor   map[types.UID][]*resourcev1.ResourceClaim // see setMade; by pod

	// promises to claims, until the API shows that they have them. held is what
	// each claim counts for, and taken the sum of it. All are by UID.
	promises map[types.UID]*resourcev1.AllocationResult
	held     map[types.UID]*resourcev1.AllocationResult
	taken    structured.AllocatedState
	// times that a whole device was given away: twice, if somebody makes a
	// mistake.
	times map[structured.DeviceID]int
}

func newDevices() devices {
	return devices{
		deviceClaims: map[string]*resourcev1.ResourceClaim{}, deviceClasses: map[string]*resourcev1.DeviceClass{},
		resourceSlices: map[string]*resourcev1.ResourceSlice{}, taintRules: map[string]*resourcev1.DeviceTaintRule{},
		promises: map[types.UID]*resourcev1.AllocationResult{}, held: map[types.UID]*resourcev1.AllocationResult{},
		taken: structured.AllocatedState{
			AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
			AggregatedCapacity: structured.NewConsumedCapacityCollection(),
		},
		times: map[structured.DeviceID]int{}, madeFor: map[types.UID][]*resourcev1.ResourceClaim{},
	}
}

// takeDevices follows an object that has to do with devices, and returns what
// it may mean for pods that wait; nil: nothing. ok: it is of such a kind.
func (c *cluster) takeDevices(o kinds.Object, gone bool) (e *event, ok bool) {
	switch o := o.(type) {
	case *resourcev1.ResourceClaim:
		return c.setDeviceClaim(o, gone), true
	case *resourcev1.ResourceSlice:
		old := c.resourceSlices[o.Name]
		setOrDelete(c.resourceSlices, o.Name, o, gone)
		if old == nil || gone || !apiequality.Semantic.DeepEqual(old.Spec, o.Spec) {
			c.offered = nil
			return &event{what: sliceChanged, name: o.Name}, true
		}
	case *resourcev1.DeviceClass:
		old := c.deviceClasses[o.Name]
		setOrDelete(c.deviceClasses, o.Name, o, gone)
		if old == nil || gone || !apiequality.Semantic.DeepEqual(old.Spec, o.Spec) {
			c.reclass()
			return &event{what: deviceClassChanged, name: o.Name}, true
		}
	case *resourcev1.DeviceTaintRule:
		old := c.taintRules[o.Name]
		setOrDelete(c.taintRules, o.Name, o, gone)
		if old == nil || gone || !apiequality.Semantic.DeepEqual(old.Spec, o.Spec) {
			c.offered = nil
			return &event{what: sliceChanged, name: o.Name}, true
		}
	default:
		return nil, false
	}
	return nil, true
}

func (c *cluster) setDeviceClaim(o *resourcev1.ResourceClaim, gone bool) *event {
	key := keyOf(o)
	known := c.deviceClaims[key]
	if !gone && known != nil && older(o, known) {
		return nil
	}
	e := &event{what: deviceClaimChanged, name: key}
	if known != nil {
		other := gone || known.UID != o.UID
		e.freed = known.Status.Allocation != nil && (other || o.Status.Allocation == nil) || other && ownerOf(known) != ""
		if other {
			delete(c.promises, known.UID)
			c.hold(known.UID, nil)
		}
	}
	setOrDelete(c.deviceClaims, key, o, gone)
	c.setMade(o, gone)
	if !gone {
		c.holdFor(o)
	}
	return e
}

// holdFor a claim what it has, or what it was promised.
func (d *devices) holdFor(o *resourcev1.ResourceClaim) {
	d.hold(o.UID, cmp.Or(o.Status.Allocation, d.promises[o.UID]))
}

// promiseDevices makes decisions see what a claim is going to have.
func (c *cluster) promiseDevices(o *resourcev1.ResourceClaim, a *resourcev1.AllocationResult) {
	c.version++
	c.promises[o.UID] = a
	c.holdFor(o)
}

// withdrawDevices ends a promise, kept or not.
func (c *cluster) withdrawDevices(o *resourcev1.ResourceClaim) {
	c.version++
	delete(c.promises, o.UID)
	if now := c.deviceClaims[keyOf(o)]; now != nil && now.UID == o.UID {
		c.holdFor(now)
	} else {
		c.hold(o.UID, nil)
	}
}

// hold replaces what a claim counts for.
func (d *devices) hold(uid types.UID, a *resourcev1.AllocationResult) {
	old := d.held[uid]
	if old == a {
		return
	}
	if old != nil {
		d.account(old, -1)
		delete(d.held, uid)
	}
	if a != nil {
		d.account(a, 1)
		d.held[uid] = a
	}
}

// account for an allocation. Devices that administrators look at stay free.
func (d *devices) account(a *resourcev1.AllocationResult, sign int) {
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		if r.AdminAccess != nil && *r.AdminAccess {
			continue
		}
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID == nil {
			if d.times[id] += sign; d.times[id] == 0 {
				delete(d.times, id)
				d.taken.AllocatedDevices.Delete(id)
			} else {
				d.taken.AllocatedDevices.Insert(id)
			}
			continue
		}
		share, used := structured.MakeSharedDeviceID(id, r.ShareID), structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity)
		if sign > 0 {
			d.taken.AllocatedSharedDeviceIDs.Insert(share)
			d.taken.AggregatedCapacity.Insert(used)
		} else {
			d.taken.AllocatedSharedDeviceIDs.Delete(share)
			d.taken.AggregatedCapacity.Remove(used)
		}
	}
}

// offer is the devices that there are, with all their taints.
func (d *devices) offer() []*resourcev1.ResourceSlice {
	if d.offered == nil {
		d.offered = make([]*resourcev1.ResourceSlice, 0, len(d.resourceSlices))
		for _, name := range slices.Sorted(maps.Keys(d.resourceSlices)) {
			d.offered = append(d.offered, d.ruled(d.resourceSlices[name]))
		}
	}
	return d.offered
}

// ruled is a slice with the taints that rules add.
func (d *devices) ruled(s *resourcev1.ResourceSlice) *resourcev1.ResourceSlice {
	out := s
	for _, name := range slices.Sorted(maps.Keys(d.taintRules)) {
		rule := d.taintRules[name]
		for i := range s.Spec.Devices {
			if !kinds.SelectsDevice(rule, s.Spec.Driver, s.Spec.Pool.Name, s.Spec.Devices[i].Name) {
				continue
			}
			if out == s {
				out = s.DeepCopy()
			}
			out.Spec.Devices[i].Taints = append(out.Spec.Devices[i].Taints, rule.Spec.Taint)
		}
	}
	return out
}

// classLister gives the allocator the classes.
type classLister map[string]*resourcev1.DeviceClass

func (l classLister) List() ([]*resourcev1.DeviceClass, error) {
	return slices.Collect(maps.Values(l)), nil
}

func (l classLister) Get(name string) (*resourcev1.DeviceClass, error) {
	if class := l[name]; class != nil {
		return class, nil
	}
	return nil, apierrors.NewNotFound(resourcev1.Resource("deviceclasses"), name)
}
