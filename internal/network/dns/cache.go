package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxCached answers, and the size above which one is not kept: together
	// at most a few megabytes.
	maxCached     = 4096
	maxCachedSize = 4096
	// maxTTL bounds how long a positive answer is believed, maxNegativeTTL how
	// long an absence is.
	maxTTL         = time.Hour
	maxNegativeTTL = 30 * time.Second
)

// cacheKey is a question; the DNSSEC bit changes the answer.
type cacheKey struct {
	name   string // lower case
	qtype  uint16
	dnssec bool
}

// cache of upstream answers, least recently used first out.
type cache struct {
	mu      sync.Mutex
	entries map[cacheKey]*list.Element
	order   list.List // of *cached, newest use in front
}

type cached struct {
	key     cacheKey
	msg     *dns.Msg // never changed
	stored  time.Time
	expires time.Time
}

func newCache() *cache { return &cache{entries: map[cacheKey]*list.Element{}} }

// get returns a copy with what is left of its lifetimes, or nil.
func (c *cache) get(k cacheKey, now time.Time) *dns.Msg {
	c.mu.Lock()
	el := c.entries[k]
	if el == nil {
		c.mu.Unlock()
		return nil
	}
	e := el.Value.(*cached)
	if !now.Before(e.expires) {
		c.order.Remove(el)
		delete(c.entries, k)
		c.mu.Unlock()
		return nil
	}
	c.order.MoveToFront(el)
	c.mu.Unlock()
	m := e.msg.Copy()
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			h.Ttl -= min(h.Ttl, age)
		}
	}
	return m
}

// put keeps m, which the caller must not change afterwards, if it may be kept.
func (c *cache) put(k cacheKey, m *dns.Msg, now time.Time) {
	life := lifetime(m)
	if life <= 0 || m.Truncated || m.Len() > maxCachedSize {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.entries[k]; el != nil {
		c.order.Remove(el)
	}
	c.entries[k] = c.order.PushFront(&cached{key: k, msg: m, stored: now, expires: now.Add(life)})
	for c.order.Len() > maxCached {
		last := c.order.Back()
		delete(c.entries, last.Value.(*cached).key)
		c.order.Remove(last)
	}
}

// lifetime of an answer: the shortest of its records; of an absence, what its
// SOA says (RFC 2308). Failures are not kept.
func lifetime(m *dns.Msg) time.Duration {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	if len(m.Answer) > 0 && m.Rcode == dns.RcodeSuccess {
		life := maxTTL
		for _, rr := range m.Answer {
			life = min(life, time.Duration(rr.Header().Ttl)*time.Second)
		}
		return life
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, maxNegativeTTL)
		}
	}
	return 0
}
