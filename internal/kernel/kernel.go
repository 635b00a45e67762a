// Package kernel tells how old the kernel is, for what cannot be tried.
package kernel

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// AtLeast reports whether the kernel is of a version or a later one. One whose
// version cannot be read is none.
func AtLeast(major, minor int) bool {
	v := version()
	return v[0] > major || v[0] == major && v[1] >= minor
}

var version = sync.OnceValue(func() (v [2]int) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return v
	}
	return parse(unix.ByteSliceToString(u.Release[:]))
})

func parse(release string) (v [2]int) {
	if n, _ := fmt.Sscanf(release, "%d.%d", &v[0], &v[1]); n != 2 {
		return [2]int{}
	}
	return v
}
