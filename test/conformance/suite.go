//go:build suite

// What is built from upstream's module, here so that go mod tidy keeps it. No
// build has this tag: a program cannot be imported, and the suite is not
// linked into this one.
package main

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost"
	_ "k8s.io/kubernetes/test/images/nonewprivs"
	_ "k8s.io/sample-apiserver"
)
