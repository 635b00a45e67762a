package volumebinder

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/plan"
)

type claimOption func(*corev1.PersistentVolumeClaim)

// claim asks for 2Gi that one node may write, and names no class.
func claim(opts ...claimOption) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "c", UID: "u-c", ResourceVersion: "5"}}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
	c.Status.Phase = corev1.ClaimPending
	for _, o := range opts {
		o(c)
	}
	return c
}

func ofClassNamed(class string) claimOption {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &class }
}
func naming(volume string) claimOption {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = volume }
}
func marked(key, value string) claimOption {
	return func(c *corev1.PersistentVolumeClaim) { annotate(c, key, value) }
}
func complete(c *corev1.PersistentVolumeClaim) { annotate(c, bindCompleted, "yes") }
func leaving(c *corev1.PersistentVolumeClaim)  { c.DeletionTimestamp = &metav1.Time{} }
func selecting(c *corev1.PersistentVolumeClaim) {
	c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "fast"}}
}
func status(phase corev1.PersistentVolumeClaimPhase, size string) claimOption {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Status.Phase, c.Status.AccessModes = phase, c.Spec.AccessModes
		c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	}
}

type volumeOption func(*corev1.PersistentVolume)

// volume of some size that one node may write; it is free.
func volume(name, size string, opts ...volumeOption) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u-" + "v", ResourceVersion: "7"}}
	v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	v.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	v.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/data"}
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	v.Status.Phase = corev1.VolumeAvailable
	for _, o := range opts {
		o(v)
	}
	return v
}

func claimed(uid string) volumeOption {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "a", Name: "c", UID: types.UID(uid)}
	}
}
func by(key, value string) volumeOption {
	return func(v *corev1.PersistentVolume) { annotate(v, key, value) }
}
func in(phase corev1.PersistentVolumePhase) volumeOption {
	return func(v *corev1.PersistentVolume) { v.Status.Phase = phase }
}
func reclaimed(p corev1.PersistentVolumeReclaimPolicy) volumeOption {
	return func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = p }
}
func manyWriters(v *corev1.PersistentVolume) {
	v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteMany)
}
func block(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }
func fast(v *corev1.PersistentVolume)  { v.Labels = map[string]string{"disk": "fast"} }
func dying(v *corev1.PersistentVolume) { v.DeletionTimestamp = &metav1.Time{} }
func inClass(class string) volumeOption {
	return func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = class }
}

func class(provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "k"}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

// describe a result: what is written, and which events there are.
func describe(t *testing.T, res plan.Result) string {
	t.Helper()
	var out []string
	for _, a := range res.Actions {
		out = append(out, describeAction(t, a))
	}
	for _, e := range res.Events {
		out = append(out, e.Type+" "+e.Reason+": "+e.Message)
	}
	if res.After > 0 {
		out = append(out, "after "+res.After.String())
	}
	return strings.Join(out, "; ")
}

func describeAction(t *testing.T, a plan.Action) (s string) {
	t.Helper()
	switch o := a.Object.(type) {
	case *corev1.PersistentVolume:
		if s = "volume " + o.Name; a.Ref.Sub == "status" {
			s += " " + string(o.Status.Phase) + o.Status.Message
		} else if ref := o.Spec.ClaimRef; ref != nil {
			s += " of " + ref.Name + "/" + string(ref.UID)
		}
		if has(o, boundByController) && a.Ref.Sub == "" {
			s += " ours"
		}
		if o.UID == "" || o.ResourceVersion != "7" {
			t.Errorf("%s does not say what was looked at", s)
		}
	case *corev1.PersistentVolumeClaim:
		s = "claim of " + o.Spec.VolumeName
		switch {
		case a.Ref.Sub == "status":
			s += fmt.Sprintf(" %s %s", o.Status.Phase, o.Status.Capacity.Storage())
		case o.Annotations[provisioner] != "":
			s += fmt.Sprintf(" by %s, %s", o.Annotations[provisioner], o.Annotations[betaProvisioner])
		case o.Spec.VolumeName == "":
			s += " class " + *o.Spec.StorageClassName
		default:
			s += fmt.Sprintf(" completed=%v ours=%v", has(o, bindCompleted), has(o, boundByController))
		}
		if o.UID == "" || o.ResourceVersion != "5" {
			t.Errorf("%s does not say what was looked at", s)
		}
	}
	for _, l := range a.Live {
		s += fmt.Sprintf(" if %s %q is gone", l.Ref, l.UID)
	}
	if a.Event != nil {
		s += " (" + a.Event.Type + " " + a.Event.Reason + ": " + a.Event.Message + ")"
	}
	return s
}

func volumes(list ...*corev1.PersistentVolume) []*corev1.PersistentVolume { return list }

// nothing fits, and nobody makes volumes.
const noVolume = "Normal FailedBinding: no persistent volumes available for this claim and no storage class is set"

func TestMatch(t *testing.T) {
	took := func(name string) string {
		return fmt.Sprintf("volume %s of c/u-c ours; claim of %s completed=true ours=true", name, name)
	}
	for _, tt := range []struct {
		name     string
		claim    *corev1.PersistentVolumeClaim
		free     []*corev1.PersistentVolume
		reserved []*corev1.PersistentVolume
		want     string
	}{
		{"none", claim(), nil, nil, noVolume},
		{"too small", claim(), volumes(volume("v", "1Gi")), nil, noVolume},
		{"just right", claim(), volumes(volume("v", "2Gi")), nil, took("v")},
		{"the smallest", claim(), volumes(volume("x", "9Gi"), volume("y", "3Gi"), volume("z", "4Gi")), nil, took("y")},
		{"by name, if they are alike", claim(), volumes(volume("y", "3Gi"), volume("x", "3Gi")), nil, took("x")},
		{"the fewest access modes first", claim(), volumes(volume("x", "3Gi", manyWriters), volume("y", "9Gi")), nil, took("y")},
		{"not its access modes", claim(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = append(c.Spec.AccessModes, corev1.ReadWriteMany)
		}), volumes(volume("x", "3Gi"), volume("y", "9Gi", manyWriters)), nil, took("y")},
		{"not free yet", claim(), volumes(volume("v", "2Gi", in(corev1.VolumePending))), nil, noVolume},
		{"given back, but not empty", claim(), volumes(volume("v", "2Gi", in(corev1.VolumeReleased))), nil, noVolume},
		{"on its way out", claim(), volumes(volume("v", "2Gi", dying)), nil, noVolume},
		{"another mode", claim(), volumes(volume("v", "2Gi", block)), nil, noVolume},
		{"another class", claim(), volumes(volume("v", "2Gi", inClass("k"))), nil, noVolume},
		{"a class by its old annotation", claim(), volumes(volume("v", "2Gi", by(corev1.BetaStorageClassAnnotation, "k"))), nil, noVolume},
		{"other labels", claim(selecting), volumes(volume("v", "2Gi")), nil, noVolume},
		{"its labels", claim(selecting), volumes(volume("x", "2Gi"), volume("y", "3Gi", fast)), nil, took("y")},
		{"other attributes", claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeAttributesClassName = ptr.To("gold") }), volumes(volume("v", "2Gi")), nil, noVolume},
		{"reserved by a user", claim(), volumes(volume("x", "2Gi")), volumes(volume("v", "9Gi", claimed(""), inClass("other"))),
			"volume v of c/u-c; claim of v completed=true ours=true"},
		{"reserved for an earlier claim of the name", claim(), nil, volumes(volume("v", "9Gi", claimed("u-old"))), noVolume},
		{"reserved, but too small", claim(), nil, volumes(volume("v", "1Gi", claimed(""))), noVolume},
		{"the scheduler has begun", claim(), nil, volumes(volume("v", "9Gi", claimed("u-c"), by(boundByController, "yes"))), "claim of v completed=true ours=true"},
		{"going: not any more", claim(leaving), volumes(volume("v", "2Gi")), nil, ""},
	} {
		if got := describe(t, Plan(Observed{Claim: tt.claim, Free: tt.free, Reserved: tt.reserved})); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestUnmatched(t *testing.T) {
	const later, now = storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	pod := func(name string) *corev1.Pod { return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	waits := func(p string) string {
		return fmt.Sprintf("Normal ExternalProvisioning: Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", p)
	}
	k := ofClassNamed("k")
	for _, tt := range []struct {
		name string
		in   Observed
		want string
	}{
		{"no class", Observed{Claim: claim(ofClassNamed(""))}, noVolume},
		{"no class, but a default one", Observed{Claim: claim(), Default: class("p", now)}, "claim of  class k"},
		{"no class is wanted", Observed{Claim: claim(ofClassNamed("")), Default: class("p", now)}, noVolume},
		{"a status that is not true", Observed{Claim: claim(status(corev1.ClaimBound, "2Gi"))}, "claim of  Pending 0; " + noVolume},
		{"a class that is not there", Observed{Claim: claim(k)}, `Warning ProvisioningFailed: storageclass.storage.k8s.io "k" not found`},
		{"an external provisioner", Observed{Claim: claim(k), Class: class("example.com/p", now)}, "claim of  by example.com/p, example.com/p (" + waits("example.com/p") + ")"},
		{"it has been told", Observed{Claim: claim(k, marked(provisioner, "example.com/p")), Class: class("example.com/p", now)}, waits("example.com/p")},
		{"a driver in its place", Observed{Claim: claim(k), Class: class("kubernetes.io/aws-ebs", now)}, "claim of  by ebs.csi.aws.com, ebs.csi.aws.com (" + waits("ebs.csi.aws.com") + ")"},
		{"nobody makes them", Observed{Claim: claim(k), Class: class("kubernetes.io/no-provisioner", now)}, "Warning ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"},
		{"the scheduler picks", Observed{Claim: claim(k), Class: class("example.com/p", later), Free: volumes(volume("v", "2Gi", inClass("k")))}, "Normal WaitForFirstConsumer: waiting for first consumer to be created before binding"},
		{"it waits for a pod", Observed{Claim: claim(k), Class: class("example.com/p", later), Waiting: []*corev1.Pod{pod("p")}}, "Normal WaitForPodScheduled: waiting for pod p to be scheduled"},
		{"for two", Observed{Claim: claim(k), Class: class("example.com/p", later), Waiting: []*corev1.Pod{pod("q"), pod("p")}}, "Normal WaitForPodScheduled: waiting for pods p,q to be scheduled"},
		{"the scheduler has picked a node", Observed{Claim: claim(k, marked(selectedNode, "n")), Class: class("example.com/p", later)}, "claim of  by example.com/p, example.com/p (" + waits("example.com/p") + ")"},
		{"the scheduler has picked a volume", Observed{Claim: claim(k), Class: class("example.com/p", later), Reserved: volumes(volume("v", "2Gi", inClass("k"), claimed("u-c"), by(boundByController, "yes")))},
			"claim of v completed=true ours=true"},
	} {
		if got := describe(t, Plan(tt.in)); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestNamedAndBound(t *testing.T) {
	mine := volume("v", "3Gi", claimed("u-c"), in(corev1.VolumeBound))
	const missing, lost = "Warning ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!", "Warning ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly"
	for _, tt := range []struct {
		name   string
		claim  *corev1.PersistentVolumeClaim
		volume *corev1.PersistentVolume
		late   bool
		want   string
	}{
		{"names one that is not there", claim(naming("v")), nil, false, ""},
		{"names a free one", claim(naming("v")), volume("v", "3Gi"), false, "volume v of c/u-c ours; claim of v completed=true ours=false"},
		{"names one that names it", claim(naming("v")), volume("v", "1Gi", claimed("")), false, "volume v of c/u-c; claim of v completed=true ours=false"},
		{"names one that is too small", claim(naming("v")), volume("v", "1Gi"), false, `Warning VolumeMismatch: Cannot bind to requested volume "v": requested PV is too small`},
		{"names one of another class", claim(naming("v")), volume("v", "3Gi", inClass("k")), false, `Warning VolumeMismatch: Cannot bind to requested volume "v": storageClassName does not match`},
		{"names one of another mode", claim(naming("v")), volume("v", "3Gi", block), false, `Warning VolumeMismatch: Cannot bind to requested volume "v": incompatible volumeMode`},
		{"names one that goes", claim(naming("v")), volume("v", "3Gi", dying), false, `Warning VolumeMismatch: Cannot bind to requested volume "v": the volume is marked for deletion "v"`},
		{"names another's", claim(naming("v")), volume("v", "3Gi", claimed("u-old")), false, `Warning FailedBinding: volume "v" already bound to a different claim.`},

		{"bound, not said yet", claim(naming("v"), complete), mine, false, "claim of v Bound 3Gi"},
		{"bound", claim(naming("v"), complete, status(corev1.ClaimBound, "3Gi")), mine, false, ""},
		{"bound and being resized", claim(naming("v"), complete, status(corev1.ClaimBound, "2Gi")), mine, false, ""},
		{"bound to what still grows", claim(naming("v"), complete), volume("v", "3Gi", claimed("u-c"), by(preResize, "2Gi")), false, "claim of v Bound 2Gi"},
		{"the volume has forgotten", claim(naming("v"), complete, status(corev1.ClaimBound, "3Gi")), volume("v", "3Gi"), false, "volume v of c/u-c ours"},
		{"the claim has forgotten", claim(complete), nil, false, "claim of  Lost 0 (Warning ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!)"},
		{"the volume is gone", claim(naming("v"), complete, status(corev1.ClaimBound, "3Gi")), nil, false, `claim of v Lost 0 if persistentvolumes v "" is gone (` + missing + ")"},
		{"the view is behind", claim(naming("v"), complete, status(corev1.ClaimBound, "3Gi")), nil, true, "after 100ms"},
		{"that was said", claim(naming("v"), complete, func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }), nil, false, ""},
		{"it is another's", claim(naming("v"), complete, status(corev1.ClaimBound, "3Gi")), volume("v", "3Gi", claimed("u-other")), false, "claim of v Lost 0 (" + lost + ")"},
		{"perhaps it is another's", claim(naming("v"), complete, status(corev1.ClaimBound, "3Gi")), volume("v", "3Gi", claimed("u-other")), true, "after 100ms"},
		{"found again", claim(naming("v"), complete, func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }), mine, false, "claim of v Bound 3Gi"},
	} {
		if got := describe(t, Plan(Observed{Claim: tt.claim, Volume: tt.volume, CaughtUp: !tt.late})); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestPlanVolume(t *testing.T) {
	const gone = ` if persistentvolumeclaims a/c "u-c" is gone`
	const remove, recycle = corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle
	released, ours := in(corev1.VolumeReleased), by(boundByController, "yes")
	for _, tt := range []struct {
		name   string
		volume *corev1.PersistentVolume
		claim  *corev1.PersistentVolumeClaim
		users  []string
		want   string
	}{
		{"new", volume("v", "1Gi", in(corev1.VolumePending)), nil, nil, "volume v Available"},
		{"free", volume("v", "1Gi"), nil, nil, ""},
		{"reserved", volume("v", "1Gi", in(corev1.VolumePending), claimed("")), claim(), nil, "volume v Available"},
		{"emptied by an admin", volume("v", "1Gi", released), nil, nil, "volume v Available"},
		{"the claim does not say so yet", volume("v", "1Gi", claimed("u-c")), claim(), nil, ""},
		{"bound", volume("v", "1Gi", claimed("u-c")), claim(naming("v")), nil, "volume v Bound"},
		{"bound, and said", volume("v", "1Gi", claimed("u-c"), in(corev1.VolumeBound)), claim(naming("v")), nil, ""},
		{"of another mode than its claim", volume("v", "1Gi", claimed("u-c"), block), claim(), nil,
			`Warning VolumeMismatch: Cannot bind PersistentVolume to requested PersistentVolumeClaim "c" due to incompatible volumeMode.; ` +
				`Warning VolumeMismatch: Cannot bind PersistentVolume "v" to requested PersistentVolumeClaim due to incompatible volumeMode.`},
		{"the claim took another", volume("v", "1Gi", claimed("u-c"), ours), claim(naming("x")), nil, "volume v"},
		{"the claim took another than its user said", volume("v", "1Gi", claimed("u-c")), claim(naming("x")), nil, "volume v of c/"},
		{"made for the claim, which took another", volume("v", "1Gi", claimed("u-c"), ours, by(provisionedBy, "example.com/p"), reclaimed(remove)), claim(naming("x")), nil, "volume v Released"},

		{"the claim is gone", volume("v", "1Gi", claimed("u-c"), in(corev1.VolumeBound)), nil, nil, "volume v Released" + gone},
		{"a new claim of the name", volume("v", "1Gi", claimed("u-c"), in(corev1.VolumeBound)), claim(func(c *corev1.PersistentVolumeClaim) { c.UID = "u-new" }), nil, "volume v Released" + gone},
		{"kept", volume("v", "1Gi", claimed("u-c"), released), nil, nil, ""},
		{"recycled", volume("v", "1Gi", claimed("u-c"), released, reclaimed(recycle)), nil, nil,
			"volume v FailedNo recycler plugin found for the volume!" + gone + " (Warning VolumeFailedRecycle: No recycler plugin found for the volume!)"},
		{"recycled while pods have it", volume("v", "1Gi", claimed("u-c"), released, reclaimed(recycle)), nil, []string{"a/p"}, "Normal VolumeFailedRecycle: Volume is used by pods: a/p"},
		{"deleted by its provisioner", volume("v", "1Gi", claimed("u-c"), released, reclaimed(remove), by(provisionedBy, "example.com/p")), nil, nil, ""},
		{"deleted by its driver", volume("v", "1Gi", claimed("u-c"), released, reclaimed(remove), func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{}}
		}), nil, nil, ""},
		{"deleted by the driver in its place", volume("v", "1Gi", claimed("u-c"), released, reclaimed(remove), by(migratedTo, "ebs.csi.aws.com")), nil, nil, ""},
		{"deleted by nobody", volume("v", "1Gi", claimed("u-c"), released, reclaimed(remove)), nil, nil,
			`volume v Failederror getting deleter volume plugin for volume "v": no deletable volume plugin matched` + gone + ` (Warning VolumeFailedDelete: error getting deleter volume plugin for volume "v": no deletable volume plugin matched)`},
		{"deleted by what is not here", volume("v", "1Gi", claimed("u-c"), released, reclaimed(remove), by(provisionedBy, "kubernetes.io/host-path")), nil, nil,
			"volume v Failedno volume plugin matched name: kubernetes.io/host-path" + gone + " (Warning VolumeFailedDelete: no volume plugin matched name: kubernetes.io/host-path)"},
		{"failed, and said", volume("v", "1Gi", claimed("u-c"), in(corev1.VolumeFailed), reclaimed(remove)), nil, nil, ""},
	} {
		if got := describe(t, PlanVolume(Held{Volume: tt.volume, Claim: tt.claim, Users: tt.users})); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestEventsSayWhom(t *testing.T) {
	for _, e := range append(Plan(Observed{Claim: claim()}).Events, PlanVolume(Held{Volume: volume("v", "1Gi", claimed("u-c"), block), Claim: claim()}).Events...) {
		if e.UID == "" || e.Regarding.Name == "" || e.Regarding.Kind == nil {
			t.Errorf("%+v", e)
		}
	}
	if ref := Plan(Observed{Claim: claim()}).Events[0].Regarding; ref.Kind != kinds.PersistentVolumeClaim || ref.Namespace != "a" {
		t.Errorf("%+v", ref)
	}
}
