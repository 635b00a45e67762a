package apiserver_test

import (
	"encoding/base64"
	"encoding/pem"
	"net/http/httptest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/internal/kinds"
)

var admin = &user.DefaultInfo{Name: "admin", Groups: []string{"system:masters"}}

// refOf names something of core/v1 in the default namespace.
func refOf(resource, name string) kinds.Ref {
	k := kinds.Builtin().ByResource(schema.GroupVersionResource{Version: "v1", Resource: resource})
	return kinds.Ref{Kind: k, Namespace: "default", Name: name}
}

type statusError struct {
	code    int32
	message string
}

func (e *statusError) Error() string { return e.message }
func (e *statusError) Status() metav1.Status {
	return metav1.Status{Status: metav1.StatusFailure, Code: e.code, Message: e.message}
}

// bundleOf is a test server's certificate, as clients' configurations hold it.
func bundleOf(s *httptest.Server) string {
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}
