package leader

import (
	"strconv"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/plan"
)

// Candidate is the annotation by which a candidate tells the holder of a lease
// that somebody waits for it: its identity, a space, and the time. Candidates
// that see another's word need not give their own.
const Candidate = "leader.knarr.dev/candidate"

// candidacy is what one candidate knows of a lease, and whether it holds it. It
// does nothing: it is told what is seen and what came of its writes, by a clock
// that only has to go at the right pace, and says what to write next.
type candidacy struct {
	ref      types.NamespacedName
	identity string
	timing   Timing

	lease   *coordinationv1.Lease // as it was seen last; nil: never
	gone    bool                  // and has been deleted since
	changed time.Time             // when its spec, or its end, was first seen as it is
	word    string                // the annotation as it was seen last
	spoken  time.Time             // when it was first seen so

	leading bool
	term    int       // counts the times that leading began
	until   time.Time // it may act until then
	renewed time.Time // when the last write that succeeded was sent
	failed  time.Time // when the last write failed; zero after one that did not
}

// write of the lease.
type write struct {
	verb  plan.Verb
	lease *coordinationv1.Lease
	claim bool      // it takes or renews it; else it only says that somebody waits
	sent  time.Time // by the candidate's clock
}

func holder(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// lasts is how long the holder acts after a renewal at most.
func (t Timing) lasts(l *coordinationv1.Lease) time.Duration {
	if l.Spec.LeaseDurationSeconds == nil {
		return t.Alone
	}
	return time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second
}

func revision(l *coordinationv1.Lease) int64 {
	rev, err := strconv.ParseInt(l.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return rev
}

// see takes in the lease (nil: there is none) as it is at rev. What is older
// than what was seen already, as a view is that lags, is no news; rev 0 is the
// truth whatever was seen.
func (c *candidacy) see(l *coordinationv1.Lease, rev int64, now time.Time) {
	switch {
	case l == nil:
		if c.lease != nil && !c.gone && (rev == 0 || rev >= revision(c.lease)) {
			c.gone, c.changed = true, now
		}
		return
	case c.lease != nil && rev != 0 && (revision(l) < revision(c.lease) || c.gone && revision(l) == revision(c.lease)):
		return
	}
	if c.lease == nil || c.lease.UID != l.UID || !equality.Semantic.DeepEqual(c.lease.Spec, l.Spec) {
		c.changed = now
	}
	c.lease, c.gone = l, false
	if w := l.Annotations[Candidate]; w != c.word {
		c.word, c.spoken = w, now
	}
}

// speaker is who says that it waits.
func (c *candidacy) speaker() string {
	who, _, _ := strings.Cut(c.word, " ")
	return who
}

// watched: another waits for the lease, or did until lately.
func (c *candidacy) watched(now time.Time) bool {
	who := c.speaker()
	return who != "" && who != c.identity && now.Before(c.spoken.Add(c.timing.Heed))
}

// decide what to write now, if anything, and when to ask again.
func (c *candidacy) decide(now time.Time) (w *write, due time.Time) {
	if c.leading && (!now.Before(c.until) || !c.gone && holder(c.lease) != c.identity) {
		c.leading = false
	}
	if c.leading {
		return c.keep(now)
	}
	take := c.free()
	if take.IsZero() || !now.Before(take) {
		if at := c.patient(); now.Before(at) {
			return nil, at
		}
		return c.claim(now), now
	}
	speak := c.spoken.Add(c.timing.Speak)
	if who := c.speaker(); who == "" || who == holder(c.lease) {
		speak = now
	}
	if c.gone {
		return nil, take // there is nobody to speak to
	}
	if at := c.patient(); speak.Before(at) {
		speak = at
	}
	if now.Before(speak) {
		return nil, earlier(take, speak)
	}
	return c.speak(now), now
}

// keep renews the lease in time.
func (c *candidacy) keep(now time.Time) (*write, time.Time) {
	every, wants := c.timing.RenewAlone, c.timing.Alone
	if c.watched(now) {
		every, wants = c.timing.RenewWatched, c.timing.Watched
	}
	at := c.renewed.Add(every)
	if c.gone || c.timing.lasts(c.lease) != wants {
		at = c.renewed.Add(c.timing.Retry)
	}
	if p := c.patient(); at.Before(p) {
		at = p
	}
	if now.Before(at) {
		return nil, earlier(at, c.until)
	}
	return c.claim(now), now
}

// free is when the lease may be taken; zero: at once.
func (c *candidacy) free() time.Time {
	switch {
	case c.lease == nil:
		return time.Time{}
	case c.gone:
		// It is held all the same, by whoever took or renewed it right before.
		return c.changed.Add(max(c.timing.lasts(c.lease), c.timing.Alone) + c.timing.Grace)
	case holder(c.lease) == "" || holder(c.lease) == c.identity:
		return time.Time{}
	}
	return c.changed.Add(c.timing.lasts(c.lease) + c.timing.Grace)
}

// patient is when to write again after a failure.
func (c *candidacy) patient() time.Time {
	if c.failed.IsZero() {
		return time.Time{}
	}
	return c.failed.Add(c.timing.Retry)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// claim takes the lease, or renews it.
func (c *candidacy) claim(now time.Time) *write {
	at := metav1.NewMicroTime(now)
	spec := coordinationv1.LeaseSpec{HolderIdentity: &c.identity, AcquireTime: &at, RenewTime: &at, LeaseTransitions: new(int32)}
	crowd := c.watched(now)
	if c.lease != nil {
		before := &c.lease.Spec
		if t := before.LeaseTransitions; t != nil {
			*spec.LeaseTransitions = *t
		}
		switch holder(c.lease) {
		case c.identity:
			if before.AcquireTime != nil {
				spec.AcquireTime = before.AcquireTime
			}
		default:
			*spec.LeaseTransitions++
			// Who has waited for it need not be the only one.
			crowd = crowd || holder(c.lease) != "" || c.speaker() == c.identity
		}
	}
	w := &write{verb: plan.Create, claim: true}
	if c.lease != nil && !c.gone {
		w.verb, w.lease = plan.Update, c.lease.DeepCopy()
	} else {
		w.lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: c.ref.Namespace, Name: c.ref.Name}}
	}
	lasts := c.timing.Watched
	if !crowd {
		lasts = c.timing.Alone
	}
	if !crowd || c.speaker() == c.identity {
		delete(w.lease.Annotations, Candidate) // nobody waits any more, or another has to say so
	}
	seconds := int32(lasts / time.Second)
	spec.LeaseDurationSeconds = &seconds
	w.lease.Spec = spec
	return w
}

// speak tells the holder that somebody waits.
func (c *candidacy) speak(now time.Time) *write {
	l := c.lease.DeepCopy()
	metav1.SetMetaDataAnnotation(&l.ObjectMeta, Candidate, c.identity+" "+now.UTC().Format(time.RFC3339Nano))
	return &write{verb: plan.Update, lease: l}
}

// release gives the lease up, if it is held; as upstream leaves it.
func (c *candidacy) release(now time.Time) *write {
	c.leading = false
	if c.lease == nil || c.gone || holder(c.lease) != c.identity {
		return nil
	}
	l := c.lease.DeepCopy()
	nobody, seconds, at := "", int32(1), metav1.NewMicroTime(now)
	l.Spec = coordinationv1.LeaseSpec{HolderIdentity: &nobody, LeaseDurationSeconds: &seconds, AcquireTime: &at, RenewTime: &at, LeaseTransitions: l.Spec.LeaseTransitions}
	return &write{verb: plan.Update, lease: l}
}

// send notes that w is on its way. Whatever comes of it, others may have seen
// it, and count from then on what it says.
func (c *candidacy) send(w *write, now time.Time) {
	w.sent = now
	if w.claim && c.leading {
		c.until = earlier(c.until, now.Add(c.timing.lasts(w.lease)))
	}
}

// done takes in that w was written, and what the lease is now.
func (c *candidacy) done(w *write, l *coordinationv1.Lease, now time.Time) {
	c.failed = time.Time{}
	c.see(l, revision(l), now)
	if !w.claim {
		return
	}
	if c.leading && !now.Before(c.until) {
		c.leading = false // the answer came too late: another term begins, if any
	}
	until := w.sent.Add(c.timing.lasts(w.lease))
	if !now.Before(until) {
		return
	}
	if !c.leading {
		c.leading, c.term = true, c.term+1
	}
	c.until, c.renewed = until, w.sent
}

// fail takes in that nobody knows what came of a write.
func (c *candidacy) fail(now time.Time) { c.failed = now }

// leads at this time.
func (c *candidacy) leads(now time.Time) bool { return c.leading && now.Before(c.until) }
