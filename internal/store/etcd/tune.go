package etcd

import (
	"sync"
	"time"
	_ "unsafe" // for go:linkname
)

// etcd looks for watchers that have fallen behind ten times a second, which is
// half of what an idle server would cost in all. It has no option for it, only
// variables "modifiable by tests"; should they go away, the linker says so.
//
//go:linkname watchResyncPeriod go.etcd.io/etcd/server/v3/storage/mvcc.watchResyncPeriod
var watchResyncPeriod time.Duration

//go:linkname chanBufLen go.etcd.io/etcd/server/v3/storage/mvcc.chanBufLen
var chanBufLen int

//go:linkname watchBatchMaxRevs go.etcd.io/etcd/server/v3/storage/mvcc.watchBatchMaxRevs
var watchBatchMaxRevs int

// tune makes watchers fall behind more rarely, by a longer buffer, and looks
// for them less often, but then lets them catch up in larger steps. The only
// watcher that matters is the cache's.
var tune = sync.OnceFunc(func() {
	chanBufLen = 2048
	watchBatchMaxRevs = 10_000
	watchResyncPeriod = 500 * time.Millisecond
})
