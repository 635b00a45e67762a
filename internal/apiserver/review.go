package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	operator "k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// review answers a question about identities and rights.
func (s *Server) review(c *call, obj runtime.Object) (runtime.Object, error) {
	switch o := obj.(type) {
	case *authenticationv1.TokenReview:
		if s.cfg.ReviewToken == nil {
			return nil, statusError(http.StatusNotImplemented, metav1.StatusReasonInternalError, "this server reviews no tokens")
		}
		return o, s.cfg.ReviewToken(c.ctx, o)
	case *authenticationv1.SelfSubjectReview:
		return &authenticationv1.SelfSubjectReview{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(s.now())},
			Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(c.user)}}, nil
	case *authorizationv1.SubjectAccessReview:
		s.decide(c, reviewed(subject(&o.Spec), o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes), &o.Status)
		return o, nil
	case *authorizationv1.LocalSubjectAccessReview:
		s.decide(c, reviewed(subject(&o.Spec), o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes), &o.Status)
		return o, nil
	case *authorizationv1.SelfSubjectAccessReview:
		s.decide(c, reviewed(c.user, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes), &o.Status)
		return o, nil
	case *authorizationv1.SelfSubjectRulesReview:
		return s.rules(c, o)
	}
	return nil, pathNotFound()
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}

// subject is whom the question is about.
func subject(spec *authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: map[string][]string{}}
	for k, v := range spec.Extra {
		u.Extra[k] = v
	}
	return u
}

// reviewed turns the question into what the authorizer is asked for a request.
func reviewed(u user.Info, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) authorizer.AttributesRecord {
	if r == nil {
		return authorizer.AttributesRecord{User: u, Verb: n.Verb, Path: n.Path}
	}
	a := authorizer.AttributesRecord{User: u, Verb: r.Verb, Namespace: r.Namespace, APIGroup: r.Group, APIVersion: r.Version,
		Resource: r.Resource, Subresource: r.Subresource, Name: r.Name, ResourceRequest: true}
	if a.APIVersion == "" {
		a.APIVersion = "*"
	}
	if f := r.FieldSelector; f != nil {
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(f)
	}
	if l := r.LabelSelector; l != nil {
		a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(l)
	}
	return a
}

// fieldRequirements reads a selector of a review. Requirements that cannot be
// expressed are left out: a selector only limits, so the answer is for a wider
// request.
func fieldRequirements(f *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if f.RawSelector != "" {
		sel, err := fields.ParseSelector(f.RawSelector)
		if err != nil {
			return nil, err
		}
		return sel.Requirements(), nil
	}
	var out fields.Requirements
	var errs []error
	for _, r := range f.Requirements {
		switch {
		case len(r.Values) == 1 && r.Operator == metav1.FieldSelectorOpIn:
			out = append(out, fields.Requirement{Field: r.Key, Operator: operator.Equals, Value: r.Values[0]})
		case len(r.Values) == 1 && r.Operator == metav1.FieldSelectorOpNotIn:
			out = append(out, fields.Requirement{Field: r.Key, Operator: operator.NotEquals, Value: r.Values[0]})
		default:
			errs = append(errs, fmt.Errorf("fieldSelectors do not yet support %v of %d values", r.Operator, len(r.Values)))
		}
	}
	return out, errors.Join(errs...)
}

var labelOperators = map[metav1.LabelSelectorOperator]operator.Operator{
	metav1.LabelSelectorOpIn: operator.In, metav1.LabelSelectorOpNotIn: operator.NotIn,
	metav1.LabelSelectorOpExists: operator.Exists, metav1.LabelSelectorOpDoesNotExist: operator.DoesNotExist,
}

func labelRequirements(l *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if l.RawSelector != "" {
		sel, err := labels.Parse(l.RawSelector)
		if err != nil {
			return nil, err
		}
		out, _ := sel.Requirements()
		return out, nil
	}
	var out labels.Requirements
	var errs []error
	for _, r := range l.Requirements {
		op, ok := labelOperators[r.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		one, err := labels.NewRequirement(r.Key, op, r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, *one)
	}
	return out, errors.Join(errs...)
}

func (s *Server) decide(c *call, a authorizer.AttributesRecord, status *authorizationv1.SubjectAccessReviewStatus) {
	decision, reason, err := s.cfg.Authz.Authorize(c.ctx, a)
	*status = authorizationv1.SubjectAccessReviewStatus{Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason}
	var errs []string
	if err != nil {
		errs = append(errs, err.Error())
	}
	for _, sel := range []struct {
		name string
		kept int
		err  error
	}{{"fieldSelector", len(a.FieldSelectorRequirements), a.FieldSelectorParsingErr}, {"labelSelector", len(a.LabelSelectorRequirements), a.LabelSelectorParsingErr}} {
		switch {
		case sel.err != nil && sel.kept > 0:
			errs = append(errs, "spec.resourceAttributes."+sel.name+" partially ignored due to parse error")
		case sel.err != nil:
			errs = append(errs, "spec.resourceAttributes."+sel.name+" ignored due to parse error")
		}
	}
	status.EvaluationError = strings.Join(errs, "; ")
}

func (s *Server) rules(c *call, o *authorizationv1.SelfSubjectRulesReview) (runtime.Object, error) {
	if s.cfg.Rules == nil {
		return nil, statusError(http.StatusNotImplemented, metav1.StatusReasonInternalError, "this server lists no rules")
	}
	if o.Spec.Namespace == "" {
		return nil, badRequest("no namespace on request")
	}
	resources, others, incomplete, err := s.cfg.Rules.RulesFor(c.ctx, c.user, o.Spec.Namespace)
	o = &authorizationv1.SelfSubjectRulesReview{}
	o.Status = authorizationv1.SubjectRulesReviewStatus{Incomplete: incomplete, ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}}
	for _, r := range resources {
		o.Status.ResourceRules = append(o.Status.ResourceRules, authorizationv1.ResourceRule{Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames()})
	}
	for _, r := range others {
		o.Status.NonResourceRules = append(o.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: r.GetVerbs(), NonResourceURLs: r.GetNonResourceURLs()})
	}
	if err != nil {
		o.Status.EvaluationError = err.Error()
	}
	return o, nil
}
