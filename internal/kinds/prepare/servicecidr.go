package prepare

import networkingv1 "k8s.io/api/networking/v1"

// ServiceCIDRCreate clears the status.
func ServiceCIDRCreate(c *networkingv1.ServiceCIDR) {
	fresh(c, false)
	c.Status = networkingv1.ServiceCIDRStatus{}
}

// ServiceCIDRUpdate keeps the status.
func ServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) {
	Keep(c, old)
	c.Status = old.Status
}

// ServiceCIDRStatusUpdate keeps everything else.
func ServiceCIDRStatusUpdate(c, old *networkingv1.ServiceCIDR) {
	statusOnly(c, old)
	c.Spec = old.Spec
}
