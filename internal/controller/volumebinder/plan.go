// Package volumebinder brings claims and persistent volumes together: it picks
// volumes for claims, completes what users and the scheduler began, asks
// external provisioners for what is missing, and says what becomes of volumes
// whose claims are gone.
package volumebinder

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

// Annotations of claims and volumes, as every binder and provisioner knows them.
const (
	bindCompleted     = "pv.kubernetes.io/bind-completed"
	boundByController = "pv.kubernetes.io/bound-by-controller"
	provisionedBy     = "pv.kubernetes.io/provisioned-by"
	migratedTo        = "pv.kubernetes.io/migrated-to"
	selectedNode      = "volume.kubernetes.io/selected-node"
	provisioner       = "volume.kubernetes.io/storage-provisioner"
	betaProvisioner   = "volume.beta.kubernetes.io/storage-provisioner"
	// preResize is a size that a volume had before it grew, as long as its file
	// system has not.
	preResize = "volume.alpha.kubernetes.io/pre-resize-capacity"
)

// builtIn is how provisioners are called that are part of upstream's own
// controller. This one has none.
const builtIn = "kubernetes.io/"

// drivers have taken the place of the provisioners that upstream once had
// itself (KEP-625).
var drivers = map[string]string{
	"kubernetes.io/aws-ebs":         "ebs.csi.aws.com",
	"kubernetes.io/azure-disk":      "disk.csi.azure.com",
	"kubernetes.io/azure-file":      "file.csi.azure.com",
	"kubernetes.io/cinder":          "cinder.csi.openstack.org",
	"kubernetes.io/gce-pd":          "pd.csi.storage.gke.io",
	"kubernetes.io/portworx-volume": "pxd.portworx.com",
	"kubernetes.io/vsphere-volume":  "csi.vsphere.vmware.com",
}

// behind is how soon to look again when the view has not caught up yet with
// the volumes; every feed reports progress much sooner.
const behind = 100 * time.Millisecond

// Observed is what the plan of a claim depends on.
type Observed struct {
	Claim *corev1.PersistentVolumeClaim
	// Volume is the one that the claim names; nil: there is none of that name.
	Volume *corev1.PersistentVolume
	// CaughtUp: Volume is as it was when the claim was last written, or newer.
	CaughtUp bool
	// Reserved are the volumes that name the claim, Free those of its class that
	// name none; only of a claim that names no volume.
	Reserved, Free []*corev1.PersistentVolume
	Class          *storagev1.StorageClass // that the claim asks for; nil: there is none of that name
	Default        *storagev1.StorageClass // for claims that do not ask
	Waiting        []*corev1.Pod           // that use the claim and have no node yet
}

// Plan brings a claim one step nearer to its volume.
func Plan(o Observed) plan.Result {
	_, completed := o.Claim.Annotations[bindCompleted]
	switch {
	case completed:
		return o.bound()
	case o.Claim.Spec.VolumeName != "":
		return o.named()
	case o.Claim.DeletionTimestamp != nil:
		return plan.Result{} // a volume would only be lost to it
	}
	if v := o.match(); v != nil {
		return o.bind(v)
	}
	return o.unmatched()
}

// unmatched: no volume fits. A class is given, a provisioner asked, or a pod
// waited for.
func (o *Observed) unmatched() plan.Result {
	class, asks := kinds.ClaimClass(o.Claim)
	switch {
	case !asks && o.Default != nil:
		c := o.Claim.DeepCopy()
		c.Spec.StorageClassName = &o.Default.Name
		return plan.Result{Actions: []plan.Action{update(kinds.PersistentVolumeClaim, c, "")}}
	case delayed(o.Class) && !has(o.Claim, selectedNode):
		return o.pending(o.awaited())
	case class != "":
		return o.provision(class)
	}
	return o.pending(o.event(corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set"))
}

// delayed: the scheduler picks the volumes for claims of the class.
func delayed(class *storagev1.StorageClass) bool {
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// awaited says for what a claim waits whose volume the scheduler picks.
func (o *Observed) awaited() plan.Event {
	var names []string
	for _, p := range o.Waiting {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	switch len(names) {
	case 0:
		return o.event(corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		return o.event(corev1.EventTypeNormal, "WaitForPodScheduled", fmt.Sprintf("waiting for pod %s to be scheduled", names[0]))
	}
	return o.event(corev1.EventTypeNormal, "WaitForPodScheduled", fmt.Sprintf("waiting for pods %s to be scheduled", strings.Join(names, ",")))
}

// provision asks whoever makes volumes of the class for one.
func (o *Observed) provision(class string) plan.Result {
	failed := func(why string) plan.Result {
		return plan.Result{Events: []plan.Event{o.event(corev1.EventTypeWarning, "ProvisioningFailed", why)}}
	}
	if o.Class == nil {
		return failed(fmt.Sprintf("storageclass.storage.k8s.io %q not found", class))
	}
	name := o.Class.Provisioner
	driver, migrated := drivers[name]
	switch {
	case migrated:
		name = driver
	case strings.HasPrefix(name, builtIn):
		return failed("no volume plugin matched name: " + name)
	}
	told := o.event(corev1.EventTypeNormal, "ExternalProvisioning", fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator."+
		" If volume creation is delayed, please verify that the provisioner is running and correctly registered.", name))
	if o.Claim.Annotations[provisioner] == name {
		return plan.Result{Events: []plan.Event{told}}
	}
	c := o.Claim.DeepCopy()
	annotate(c, betaProvisioner, name)
	annotate(c, provisioner, name)
	a := update(kinds.PersistentVolumeClaim, c, "")
	refused := o.event(corev1.EventTypeWarning, "ProvisioningFailed", "Error saving claim: ")
	a.Event, a.Failed = &told, &refused
	return plan.Result{Actions: []plan.Action{a}}
}

// named: somebody asked for a volume by its name.
func (o *Observed) named() plan.Result {
	v := o.Volume
	switch {
	case v == nil:
		return o.pending()
	case v.Spec.ClaimRef == nil:
		if why := mismatch(v, o.Claim); why != "" {
			return o.pending(o.event(corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", v.Name, why)))
		}
		return o.bind(v)
	case reserved(v, o.Claim):
		return o.bind(v)
	}
	return o.pending(o.event(corev1.EventTypeWarning, "FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", v.Name)))
}

// bound keeps what was bound, and says when it is lost.
func (o *Observed) bound() plan.Result {
	v := o.Volume
	switch {
	case o.Claim.Spec.VolumeName == "":
		return o.lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case v == nil && !o.CaughtUp:
		return plan.Result{After: behind}
	case v == nil:
		return o.lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
			plan.Live{Want: plan.Absent, Ref: kinds.Ref{Kind: kinds.PersistentVolume, Name: o.Claim.Spec.VolumeName}})
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == o.Claim.UID:
		return o.bind(v)
	case !o.CaughtUp:
		return plan.Result{After: behind}
	}
	return o.lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

// bind ties the volume to the claim, then the claim to the volume; once both
// are, it says so in the claim's status. The volume's own status follows from
// its own plan.
func (o *Observed) bind(v *corev1.PersistentVolume) (out plan.Result) {
	if now := tie(v, o.Claim); now != nil {
		out.Actions = append(out.Actions, update(kinds.PersistentVolume, now, ""))
	}
	c := o.Claim.DeepCopy()
	if c.Spec.VolumeName != v.Name {
		c.Spec.VolumeName = v.Name
		if !has(c, boundByController) {
			annotate(c, boundByController, "yes")
		}
	}
	if !has(c, bindCompleted) {
		annotate(c, bindCompleted, "yes")
	}
	if !apiequality.Semantic.DeepEqual(c, o.Claim) {
		out.Actions = append(out.Actions, update(kinds.PersistentVolumeClaim, c, ""))
		return out
	}
	s := &c.Status
	s.AccessModes = v.Spec.AccessModes
	if s.Phase != corev1.ClaimBound { // later it may differ: whoever resizes says so
		if s.Phase == corev1.ClaimPending {
			s.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
		}
		s.Phase = corev1.ClaimBound
		s.Capacity = capacity(v)
	}
	if !apiequality.Semantic.DeepEqual(c, o.Claim) {
		out.Actions = append(out.Actions, update(kinds.PersistentVolumeClaim, c, "status"))
	}
	return out
}

// tie is the volume with the claim's reference; nil: it has it.
func tie(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	ref := v.Spec.ClaimRef
	if reserved(v, c) && ref.UID == c.UID {
		return nil
	}
	now := v.DeepCopy()
	if !reserved(v, c) && !has(v, boundByController) {
		annotate(now, boundByController, "yes")
	}
	now.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: kinds.PersistentVolumeClaim.GVK.Kind,
		Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion}
	return now
}

func capacity(v *corev1.PersistentVolume) corev1.ResourceList {
	if before, ok := v.Annotations[preResize]; ok {
		if q, err := resource.ParseQuantity(before); err == nil {
			out := maps.Clone(v.Spec.Capacity)
			out[corev1.ResourceStorage] = q
			return out
		}
	}
	return v.Spec.Capacity
}

// pending says that the claim has no volume, and why.
func (o *Observed) pending(why ...plan.Event) plan.Result {
	return plan.Result{Actions: o.without(corev1.ClaimPending), Events: why}
}

// lost says that the claim's volume is gone, once.
func (o *Observed) lost(reason, message string, live ...plan.Live) plan.Result {
	actions := o.without(corev1.ClaimLost)
	if len(actions) > 0 && o.Claim.Status.Phase != corev1.ClaimLost {
		e := o.event(corev1.EventTypeWarning, reason, message)
		actions[0].Event, actions[0].Live = &e, live
		return plan.Result{Actions: actions}
	}
	return plan.Result{}
}

// without a volume, the claim's status has nothing of one.
func (o *Observed) without(phase corev1.PersistentVolumeClaimPhase) []plan.Action {
	c := o.Claim.DeepCopy()
	c.Status.Phase, c.Status.AccessModes, c.Status.Capacity, c.Status.CurrentVolumeAttributesClassName = phase, nil, nil, nil
	if apiequality.Semantic.DeepEqual(c, o.Claim) {
		return nil
	}
	return []plan.Action{update(kinds.PersistentVolumeClaim, c, "status")}
}

func (o *Observed) event(kind, reason, message string) plan.Event {
	return plan.Event{Regarding: kinds.RefTo(kinds.PersistentVolumeClaim, o.Claim), UID: o.Claim.UID, Type: kind, Reason: reason, Message: message}
}

// update writes an object as it should be; its UID and revision are those of
// what was looked at.
func update(k *kinds.Kind, obj kinds.Object, sub string) plan.Action {
	return plan.Action{Verb: plan.Update, Ref: kinds.RefTo(k, obj).WithSub(sub), Object: obj}
}

func has(o kinds.Object, annotation string) bool {
	_, ok := o.GetAnnotations()[annotation]
	return ok
}

// annotate changes an object of our own.
func annotate(o kinds.Object, key, value string) {
	a := o.GetAnnotations()
	if a == nil {
		a = map[string]string{}
	}
	a[key] = value
	o.SetAnnotations(a)
}
