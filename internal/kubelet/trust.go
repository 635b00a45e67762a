package kubelet

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/view"
)

var (
	errNoView    = errors.New("this node does not know trust bundles and certificates of pods")
	errNoBundles = errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
)

// TrustAnchors implements volume.Source out of the view.
func (s *source) TrustAnchors(_ context.Context, b *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	if !s.cfg.View.Has(kinds.ClusterTrustBundle) {
		return nil, errNoView
	}
	optional := b.Optional != nil && *b.Optional
	if b.Name != nil {
		one := view.Now[*certificatesv1.ClusterTrustBundle](s.cfg.View, kinds.ClusterTrustBundle, "", *b.Name)
		switch {
		case one != nil:
			return anchors([]*certificatesv1.ClusterTrustBundle{one}), nil
		case optional:
			return []byte{}, nil
		}
		return nil, fmt.Errorf("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io %q not found", *b.Name)
	}
	if b.SignerName == nil {
		return nil, errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	want, err := metav1.LabelSelectorAsSelector(b.LabelSelector) // none: nothing
	if err != nil {
		return nil, fmt.Errorf("while parsing label selector: %w", err)
	}
	all := slices.DeleteFunc(view.NowList[*certificatesv1.ClusterTrustBundle](s.cfg.View, kinds.ClusterTrustBundle, ""), func(o *certificatesv1.ClusterTrustBundle) bool {
		return o.Spec.SignerName != *b.SignerName || !want.Matches(labels.Set(o.Labels))
	})
	if len(all) == 0 && !optional {
		return nil, errNoBundles
	}
	return anchors(all), nil
}

// anchors of all bundles, each once and in an order that only they decide.
func anchors(list []*certificatesv1.ClusterTrustBundle) []byte {
	var ders []string
	for _, b := range list {
		rest := []byte(b.Spec.TrustBundle)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			ders = append(ders, string(block.Bytes))
		}
	}
	slices.Sort(ders)
	out := []byte{}
	for _, der := range slices.Compact(ders) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)})...)
	}
	return out
}

// news about what volumes show, which the view tells and podLoop passes on: who
// is told by a view must not wait for other locks.
type news struct {
	mu    sync.Mutex
	pods  map[types.UID]bool // whose requests have changed
	trust bool               // a bundle has
}

func (n *news) add(o kinds.Object) {
	n.mu.Lock()
	defer n.mu.Unlock()
	req, ok := o.(*certificatesv1.PodCertificateRequest)
	if !ok {
		n.trust = true
		return
	}
	if n.pods == nil {
		n.pods = map[types.UID]bool{}
	}
	n.pods[req.Spec.PodUID] = true
}

func (n *news) take() (pods map[types.UID]bool, trust bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	pods, trust = n.pods, n.trust
	n.pods, n.trust = nil, false
	return pods, trust
}

// tellNews wakes the pods whose volumes show what has changed.
func (k *Kubelet) tellNews() {
	pods, trust := k.news.take()
	if len(pods) == 0 && !trust {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for uid, w := range k.workers {
		w.mu.Lock()
		concerned := pods[uid] || trust && showsTrust(w.pod)
		w.mu.Unlock()
		if concerned {
			w.soil()
		}
	}
}

func showsTrust(pod *corev1.Pod) bool {
	return pod != nil && slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil })
	})
}
