package apiserver

import (
	"net/netip"
	"time"
)

// AllowLoopback lets tests run a pod's server on this machine.
func AllowLoopback(s *Server) { s.kubelet.allowed = func(netip.Addr) bool { return true } }

// SetBodyTimeout shortens how long a body may take.
func SetBodyTimeout(s *Server, d time.Duration) { s.bodyTimeout = d }

// ForgetPages drops the snapshots that continued lists would read.
func ForgetPages(s *Server) { s.pages = newPageSet() }
