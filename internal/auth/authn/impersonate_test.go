package authn

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// rights are what an asker may: "verb group/resource/sub ns/name"; "~" at the end
// stands for anything.
type rights struct {
	lines []string
	asked []string
}

func (r *rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	line := fmt.Sprintf("%s %s/%s/%s %s/%s", a.GetVerb(), a.GetAPIGroup(), a.GetResource(), a.GetSubresource(), a.GetNamespace(), a.GetName())
	r.asked = append(r.asked, line)
	if slices.ContainsFunc(r.lines, func(l string) bool {
		start, open := strings.CutSuffix(l, "~")
		return l == line || open && strings.HasPrefix(line, start)
	}) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func TestImpersonate(t *testing.T) {
	const authn = "authentication.k8s.io/"
	agent := &user.DefaultInfo{Name: "system:serviceaccount:ops:agent", Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"n1"}}}
	for _, tt := range []struct {
		name    string
		asker   *user.DefaultInfo // nil: jane
		headers []string
		rights  []string
		want    string // "name uid [groups] extra by constraint", or a part of the error
	}{
		{"nobody", nil, nil, nil, "-"},
		{"a group of nobody", nil, []string{"Group", "g"}, nil, `requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"g"}, Extra:map[string][]string(nil)} without impersonating a user name`},
		{"a uid of nobody", nil, []string{"Uid", "7"}, nil, "without impersonating a user name"},
		{"a user", nil, []string{"User", "joe"}, []string{"impersonate /users/ /joe"}, "joe  [system:authenticated] map[] by "},
		{"a user, not allowed", nil, []string{"User", "joe"}, nil, `pods "p" is forbidden: User "jane" cannot impersonate-on:user-info:get resource "pods" in API group "" in the namespace "a"`},
		{"with everything", nil, []string{"User", "joe", "Uid", "7", "Group", "g", "Group", "h", "Extra-Acme.com%2fx", "y"},
			[]string{"impersonate /users/ /joe", "impersonate " + authn + "uids/ /7", "impersonate /groups/ /g", "impersonate /groups/ /h", "impersonate " + authn + "userextras/acme.com/x /y"},
			"joe 7 [g h system:authenticated] map[acme.com/x:[y]] by "},
		{"one group too many", nil, []string{"User", "joe", "Group", "g", "Group", "h"}, []string{"impersonate /users/ /joe", "impersonate /groups/ /g", "impersonate-on:user-info:get ~"}, `users.authentication.k8s.io "joe" is forbidden: User "jane" cannot impersonate:user-info resource "users" in API group "authentication.k8s.io" at the cluster scope`},
		{"an account", nil, []string{"User", "system:serviceaccount:b:bot"}, []string{"impersonate /serviceaccounts/ b/bot"},
			"system:serviceaccount:b:bot  [system:serviceaccounts system:serviceaccounts:b system:authenticated] map[] by "},
		{"an account needs no right on users", nil, []string{"User", "system:serviceaccount:b:bot"}, []string{"impersonate /users/~"}, "is forbidden"},
		{"anonymous", nil, []string{"User", "system:anonymous"}, []string{"impersonate /users/~"}, "system:anonymous  [system:unauthenticated] map[] by "},
		{"a master, the old way", nil, []string{"User", "joe", "Group", "system:masters"}, []string{"impersonate /~"}, "joe  [system:masters system:authenticated] map[] by "},

		{"user-info", nil, []string{"User", "joe", "Group", "g"}, []string{"impersonate-on:user-info:get /pods/ a/p", "impersonate:user-info " + authn + "users/ /joe", "impersonate:user-info " + authn + "groups/ /g"},
			"joe  [g system:authenticated] map[] by impersonate:user-info"},
		{"user-info, another verb", nil, []string{"User", "joe"}, []string{"impersonate-on:user-info:list /pods/ a/p", "impersonate:user-info ~"}, "cannot impersonate-on:user-info:get"},
		{"user-info, no master", nil, []string{"User", "joe", "Group", "system:masters"}, []string{"impersonate-on:user-info:get ~", "impersonate:user-info ~"}, "impersonating the system:masters group is not allowed"},
		{"user-info, four groups by one right", nil, []string{"User", "joe", "Group", "a", "Group", "b", "Group", "c", "Group", "d"},
			[]string{"impersonate-on:user-info:get /pods/ a/p", "impersonate:user-info " + authn + "users/ /joe", "impersonate:user-info " + authn + "groups/ /*"},
			"joe  [a b c d system:authenticated] map[] by impersonate:user-info"},
		{"user-info, an odd key", nil, []string{"User", "joe", "Extra-Plain", "x"}, []string{"impersonate-on:user-info:get ~", "impersonate:user-info ~"}, "impersonating an invalid key in extra is not allowed"},
		{"serviceaccount", nil, []string{"User", "system:serviceaccount:b:bot"}, []string{"impersonate-on:serviceaccount:get /pods/ a/p", "impersonate:serviceaccount " + authn + "serviceaccounts/ b/bot"},
			"system:serviceaccount:b:bot  [system:serviceaccounts system:serviceaccounts:b system:authenticated] map[] by impersonate:serviceaccount"},
		{"serviceaccount with groups", nil, []string{"User", "system:serviceaccount:b:bot", "Group", "g"}, []string{"impersonate-on:~", "impersonate:~"}, "is forbidden"},
		{"arbitrary node", nil, []string{"User", "system:node:n2"}, []string{"impersonate-on:arbitrary-node:get /pods/ a/p", "impersonate:arbitrary-node " + authn + "nodes/ /n2"},
			"system:node:n2  [system:nodes system:authenticated] map[] by impersonate:arbitrary-node"},
		{"associated node", agent, []string{"User", "system:node:n1"}, []string{"impersonate-on:associated-node:get /pods/ a/p", "impersonate:associated-node " + authn + "nodes/ /*"},
			"system:node:n1  [system:nodes system:authenticated] map[] by impersonate:associated-node"},
		{"another node", agent, []string{"User", "system:node:n2"}, []string{"impersonate-on:associated-node:get /pods/ a/p", "impersonate:associated-node " + authn + "nodes/ /*"}, "is forbidden"},
		{"a person has no node", nil, []string{"User", "system:node:n1"}, []string{"impersonate-on:associated-node:get ~", "impersonate:associated-node ~"}, "is forbidden"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			for i := 0; i < len(tt.headers); i += 2 {
				h.Add("Impersonate-"+tt.headers[i], tt.headers[i+1])
			}
			asker := tt.asker
			if asker == nil {
				asker = &user.DefaultInfo{Name: "jane"}
			}
			az := &rights{lines: tt.rights}
			at := authorizer.AttributesRecord{User: asker, Verb: "get", Namespace: "a", Resource: "pods", Name: "p", APIVersion: "v1", ResourceRequest: true}
			u, constraint, err := Impersonate(az)(t.Context(), at, h)
			switch {
			case err != nil:
				if !strings.Contains(err.Error(), tt.want) || u != nil || !apierrors.IsForbidden(err) && !apierrors.IsBadRequest(err) {
					t.Errorf("%v, want %q; asked %q", err, tt.want, az.asked)
				}
			case u == nil:
				if tt.want != "-" {
					t.Errorf("nobody, want %q", tt.want)
				}
			default:
				if got := fmt.Sprint(u.GetName(), " ", u.GetUID(), " ", u.GetGroups(), " ", u.GetExtra(), " by ", constraint); got != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
				if len(h) > 0 {
					t.Errorf("headers travel on: %v", h)
				}
			}
		})
	}
}

// The way that led to a yes last is tried first.
func TestImpersonationRemembers(t *testing.T) {
	az := &rights{lines: []string{"impersonate /users/ /joe"}}
	act := Impersonate(az)
	for range 2 {
		az.asked = nil
		at := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: "jane"}, Verb: "get", Path: "/version"}
		if _, _, err := act(t.Context(), at, http.Header{"Impersonate-User": {"joe"}}); err != nil {
			t.Fatal(err)
		}
	}
	if len(az.asked) != 1 {
		t.Errorf("asked %q", az.asked)
	}
}
