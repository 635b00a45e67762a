package apiserver

import "net/netip"

// AllowLoopback lets tests run a pod's server on this machine.
func AllowLoopback(s *Server) { s.kubelet.allowed = func(netip.Addr) bool { return true } }
