package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
)

const (
	// maxAnswers that are remembered, and maxAsked, the longest question whose
	// answer is: clients choose what is asked.
	maxAnswers = 8192
	maxAsked   = 10000
)

var errBoth = errors.New("webhook subject access review returned both allow and deny response")

// Authorizer asks a webhook what a user may do, by a SubjectAccessReview. It
// implements authz.Link.
type Authorizer struct {
	client  *Client
	cfg     *apiserver.WebhookConfiguration
	onError authorizer.Decision
	matcher *authorizationcel.CELMatcher // nil: every request
	now     func() time.Time

	mu      sync.Mutex
	answers map[string]answer
}

type answer struct {
	status authorizationv1.SubjectAccessReviewStatus
	until  time.Time
}

// Compiler of match conditions; one serves all webhooks.
func Compiler() authorizationcel.Compiler { return authorizationcel.NewDefaultCompiler() }

// NewAuthorizer takes a configuration that has been validated. now may be nil.
func NewAuthorizer(c *Client, compiler authorizationcel.Compiler, cfg *apiserver.WebhookConfiguration, now func() time.Time) (*Authorizer, error) {
	matcher, errs := validation.ValidateAndCompileMatchConditions(compiler, cfg.MatchConditions)
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	if now == nil {
		now = time.Now
	}
	a := &Authorizer{client: c, cfg: cfg, onError: authorizer.DecisionNoOpinion, matcher: matcher, now: now, answers: map[string]answer{}}
	if cfg.FailurePolicy == apiserver.FailurePolicyDeny {
		a.onError = authorizer.DecisionDeny
	}
	return a, nil
}

// Authorize implements authz.Link.
func (a *Authorizer) Authorize(ctx context.Context, at authorizer.Attributes) (authorizer.Decision, string, error) {
	r := &authorizationv1.SubjectAccessReview{TypeMeta: metav1.TypeMeta{APIVersion: authorizationv1.GroupName + "/" + a.cfg.SubjectAccessReviewVersion, Kind: "SubjectAccessReview"}, Spec: question(at)}
	if a.matcher != nil && len(a.matcher.CompilationResults) > 0 {
		ok, err := a.matcher.Eval(ctx, r)
		if err != nil {
			return a.onError, "", err
		}
		if !ok {
			return authorizer.DecisionNoOpinion, "", nil
		}
	}
	key, err := json.Marshal(r.Spec)
	if err != nil {
		return a.onError, "", err
	}
	status, ok := a.remembered(string(key))
	if !ok {
		out := &authorizationv1.SubjectAccessReview{}
		if err := a.client.call(ctx, a.inVersion(r), out); err != nil {
			return a.onError, "", fmt.Errorf("webhook: %w", err)
		}
		status = out.Status
		a.remember(string(key), status)
	}
	switch {
	case status.Denied && status.Allowed:
		return authorizer.DecisionDeny, status.Reason, errBoth
	case status.Denied:
		return authorizer.DecisionDeny, status.Reason, nil
	case status.Allowed:
		return authorizer.DecisionAllow, status.Reason, nil
	}
	return authorizer.DecisionNoOpinion, status.Reason, nil
}

// RulesFor implements authz.Link.
func (a *Authorizer) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return nil, nil, true, errors.New("webhook authorizer does not support user rule resolution")
}

func (a *Authorizer) remembered(key string) (authorizationv1.SubjectAccessReviewStatus, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	x, ok := a.answers[key]
	return x.status, ok && a.now().Before(x.until)
}

func (a *Authorizer) remember(key string, s authorizationv1.SubjectAccessReviewStatus) {
	ttl, keep := a.cfg.UnauthorizedTTL.Duration, a.cfg.CacheUnauthorizedRequests
	if s.Allowed {
		ttl, keep = a.cfg.AuthorizedTTL.Duration, a.cfg.CacheAuthorizedRequests
	}
	if !keep || ttl <= 0 || len(key) > maxAsked {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if len(a.answers) >= maxAnswers {
		for k, x := range a.answers {
			if !now.Before(x.until) {
				delete(a.answers, k)
			}
		}
		if len(a.answers) >= maxAnswers {
			clear(a.answers)
		}
	}
	a.answers[key] = answer{s, now.Add(ttl)}
}

// inVersion: in v1beta1 groups have another name.
func (a *Authorizer) inVersion(r *authorizationv1.SubjectAccessReview) any {
	if a.cfg.SubjectAccessReviewVersion != "v1beta1" {
		return r
	}
	s := r.Spec
	groups := s.Groups
	s.Groups = nil
	return struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ObjectMeta `json:"metadata"`
		Spec            any               `json:"spec"`
	}{r.TypeMeta, r.ObjectMeta, struct {
		authorizationv1.SubjectAccessReviewSpec `json:",inline"`
		Group                                   []string `json:"group,omitempty"`
	}{s, groups}}
}

// question writes down what the authorizer is asked.
func question(at authorizer.Attributes) authorizationv1.SubjectAccessReviewSpec {
	var s authorizationv1.SubjectAccessReviewSpec
	if u := at.GetUser(); u != nil {
		s.User, s.UID, s.Groups = u.GetName(), u.GetUID(), u.GetGroups()
		for k, v := range u.GetExtra() {
			if s.Extra == nil {
				s.Extra = map[string]authorizationv1.ExtraValue{}
			}
			s.Extra[k] = v
		}
	}
	if !at.IsResourceRequest() {
		s.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: at.GetPath(), Verb: at.GetVerb()}
		return s
	}
	s.ResourceAttributes = &authorizationv1.ResourceAttributes{Namespace: at.GetNamespace(), Verb: at.GetVerb(), Group: at.GetAPIGroup(), Version: at.GetAPIVersion(),
		Resource: at.GetResource(), Subresource: at.GetSubresource(), Name: at.GetName(), FieldSelector: fieldsOf(at), LabelSelector: labelsOf(at)}
	return s
}

// fieldsOf: what cannot be said is left out, which only widens the question.
func fieldsOf(at authorizer.Attributes) *authorizationv1.FieldSelectorAttributes {
	requirements, _ := at.GetFieldSelector()
	var out []metav1.FieldSelectorRequirement
	for _, r := range requirements {
		switch r.Operator {
		case selection.Equals, selection.DoubleEquals, selection.In:
			out = append(out, metav1.FieldSelectorRequirement{Key: r.Field, Operator: metav1.FieldSelectorOpIn, Values: []string{r.Value}})
		case selection.NotEquals, selection.NotIn:
			out = append(out, metav1.FieldSelectorRequirement{Key: r.Field, Operator: metav1.FieldSelectorOpNotIn, Values: []string{r.Value}})
		}
	}
	if len(out) == 0 {
		return nil
	}
	return &authorizationv1.FieldSelectorAttributes{Requirements: out}
}

func labelsOf(at authorizer.Attributes) *authorizationv1.LabelSelectorAttributes {
	requirements, _ := at.GetLabelSelector()
	var out []metav1.LabelSelectorRequirement
	for _, r := range requirements {
		one := metav1.LabelSelectorRequirement{Key: r.Key(), Values: r.ValuesUnsorted()}
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			one.Operator = metav1.LabelSelectorOpIn
		case selection.NotEquals, selection.NotIn:
			one.Operator = metav1.LabelSelectorOpNotIn
		case selection.Exists:
			one.Operator = metav1.LabelSelectorOpExists
		case selection.DoesNotExist:
			one.Operator = metav1.LabelSelectorOpDoesNotExist
		default:
			continue
		}
		out = append(out, one)
	}
	if len(out) == 0 {
		return nil
	}
	return &authorizationv1.LabelSelectorAttributes{Requirements: out}
}
