package cri_test

import "maps"

// difference of a target from what the suite holds to be right.
type difference struct {
	reason string
	// says is what the failure has to tell, so that another one is noticed.
	says string
	// race: it depends on what else happens at the time, so that it may hold.
	race bool
}

// differences by target and case. What stands here must fail.
var differences = map[string]map[string]difference{
	"containerd": merged(anyContainerd, containerd16),
	"builtin":    builtin,
	"handler":    merged(builtin, debianRunc),
	"oracle":     merged(anyContainerd, containerd24),
}

func merged(lists ...map[string]difference) map[string]difference {
	all := map[string]difference{}
	for _, l := range lists {
		maps.Copy(all, l)
	}
	return all
}

// anyContainerd is what containerd 1.6 and 2.4 do alike.
var anyContainerd = map[string]difference{
	"sandbox/status with the containers":                            {reason: "containerd tells of containers in its events only", says: `containers is "map[]"`},
	"network/DNS config that is refused":                            {reason: "containerd writes what it gets: a line break makes a line of its own", says: "it made a server"},
	"security/ambient capabilities":                                 {reason: "containerd does not know add_ambient_capabilities", says: "CapAmb is 0"},
	"security/a capability that is none":                            {reason: "runc ignores names that it does not know", says: "the container runs"},
	"mounts/missing source is an error":                             {reason: "containerd makes a directory in its place", says: "the container runs"},
	"mounts/options":                                                {reason: "containerd 2.4 does not know mount_options", says: "noexec"},
	"exec/output beyond 16 MB is cut":                               {reason: "containerd cuts at 16 MiB, and its own gRPC server refuses the answer for what it has besides", says: "ResourceExhausted"},
	"exec/background processes":                                     {reason: "containerd waits for the output's end, unless drain_exec_sync_io_timeout is set", says: "outlives its time"},
	"stream/exec to the end of its input over WebSocket, version 5": {reason: "the field's streaming server speaks version 4 over WebSocket", says: "403 Forbidden"},
	"image/list filters":                                            {reason: "containerd ignores the filter: the kubelet has none", says: "list by an unknown name"},
	"registry/registry token":                                       {reason: "containerd does not know registry_token", says: "401 Unauthorized"},
	"resources/out of memory":                                       {reason: "containerd's shim hears of it by cgroup v1's eventfd, which it lets go when the cgroup is gone before it has looked", says: "the reason is OOMKilled", race: true},
	"load/one container removed by many":                            {reason: "containerd refuses a removal while another is under way", says: "removing state", race: true},
	"load/a sandbox stopped and removed by many":                    {reason: "containerd refuses a removal while another is under way", says: "failed to remove container", race: true},
	"refusals/container of no image":                                {reason: "containerd takes no name as the beginning of one, and finds an image if there is but one", says: "no image was accepted", race: true},
	"last/removal of no image":                                      {reason: "containerd takes no name as the beginning of one, and removes an image if there is but one", says: "images afterwards", race: true},
}

// builtin is what knarr's own runtime does otherwise.
var builtin = map[string]difference{
	"stream/exec to the end of its input over WebSocket, version 5": anyContainerd["stream/exec to the end of its input over WebSocket, version 5"],
}

// debianRunc is what Debian's runc 1.1.5 does as a handler.
var debianRunc = map[string]difference{
	"cdi/network device": {reason: "runc before 1.4 ignores network devices in the specification", says: "interfaces has no"},
}

// containerd16 is what Debian's containerd 1.6.20 with runc 1.1.5 does, of 2023.
var containerd16 = map[string]difference{
	"info/runtime handlers":                          {reason: "1.6 has no runtime handlers in its status", says: "the default handler is not listed"},
	"info/features":                                  {reason: "1.6 has no features in its status", says: "no policy"},
	"info/runtime config":                            {reason: "1.6 has no RuntimeConfig", says: "Unimplemented"},
	"info/metric descriptors":                        {reason: "1.6 has no metrics", says: "Unimplemented"},
	"sandbox/stop of what is gone":                   {reason: "1.6 calls it an error", says: "NotFound"},
	"sandbox/stream of the list":                     {reason: "1.6 has no streamed lists", says: "Unimplemented"},
	"sandbox/update of its resources":                {reason: "1.6 has no such call", says: "Unimplemented"},
	"user namespaces/mapped":                         {reason: "1.6 has no user namespaces", says: "uid_map"},
	"user namespaces/a user of its own":              {reason: "1.6 has no user namespaces", says: "user on the host"},
	"user namespaces/refused":                        {reason: "1.6 has no user namespaces", says: "accepted"},
	"user namespaces/a container asks for another":   {reason: "1.6 has no user namespaces", says: "accepted"},
	"container/its image's identifier in the status": {reason: "1.6 has no image_id", says: `image ID is ""`},
	"container/stop of what is gone":                 {reason: "1.6 calls it an error", says: "NotFound"},
	"container/stop signal of the config":            {reason: "1.6 has no stop_signal", says: "got 15"},
	"container/stream of the list":                   {reason: "1.6 has no streamed lists", says: "Unimplemented"},
	"user/of the image":                              {reason: "1.6 has no groups of an image's user", says: "groups of app"},
	"user/strict supplemental groups":                {reason: "1.6 has no policy of supplemental groups", says: "groups of 1001"},
	"user/in the status":                             {reason: "1.6 has no users in the status", says: "user, group, groups"},
	"escapes/CVE2025_31133":                          {reason: "runc 1.1.5 is older than the remedy of 2025 (1.2.8)", says: "a link as /dev/null: a masked path shows"},
	"escapes/root file systems of links":             {reason: "runc 1.1.5 follows an image's link at /dev when it makes links there", says: "dev as a link: what was made outside is"},
	"security/privileged has a writable /sys":        {reason: "with containerd 1.6 and runc 1.1 it stays read-only in a pod with its own network", says: "it is not"},
	"mounts/recursive read-only":                     {reason: "1.6 has no recursive read-only mounts", says: "was written"},
	"mounts/recursive read-only as the handler says": {reason: "1.6 has no recursive read-only mounts", says: "the handler says false"},
	"mounts/recursive read-only that is refused":     {reason: "1.6 has no recursive read-only mounts", says: "accepted"},
	"image volumes/mounted read-only":                {reason: "1.6 has no image volumes", says: "CreateContainer"},
	"image volumes/in the status":                    {reason: "1.6 has no image volumes", says: "CreateContainer"},
	"image volumes/digest in the status":             {reason: "1.6 has no image volumes", says: "CreateContainer"},
	"image volumes/sub path":                         {reason: "1.6 has no image volumes", says: "CreateContainer"},
	"image volumes/refused":                          {reason: "1.6 has no image volumes", says: "the container runs"},
	"stats/list of pods":                             {reason: "the list fails when one of its pods goes", says: "failed to decode sandbox container metrics", race: true},
	"stats/stream of the list":                       {reason: "1.6 has no streamed lists", says: "Unimplemented"},
	"stats/stream of pods":                           {reason: "1.6 has no streamed lists", says: "Unimplemented"},
	"stats/metrics":                                  {reason: "1.6 has no metrics", says: "Unimplemented"},
	"stats/stream of metrics":                        {reason: "1.6 has no metrics", says: "Unimplemented"},
	"events/the life of a container":                 {reason: "1.6 has no events", says: "Unimplemented"},
	"events/the life of a sandbox":                   {reason: "1.6 has no events", says: "Unimplemented"},
	"events/a container killed from outside":         {reason: "1.6 has no events", says: "Unimplemented"},
	"events/two listeners":                           {reason: "1.6 has no events", says: "Unimplemented"},
	"image/stream of the list":                       {reason: "1.6 has no streamed lists", says: "Unimplemented"},
	"log/much output":                                {reason: "1.6 loses the end of much output when the container exits", says: "bytes, or others", race: true},
	"refusals/a device of CDI that nobody knows":     {reason: "1.6 has no CDI", says: "the container runs"},
	"cdi/environment, groups and mounts":             {reason: "1.6 has no CDI", says: `environment is "none"`},
	"cdi/device nodes":                               {reason: "1.6 has no CDI", says: `owner and mode is ""`},
	"cdi/node that is the user's":                    {reason: "1.6 has no CDI", says: `owner is ""`},
	"cdi/hooks":                                      {reason: "1.6 has no CDI", says: `startContainer, in the container is ""`},
	"cdi/a hook that fails":                          {reason: "1.6 has no CDI", says: "the container runs"},
	"cdi/network device":                             {reason: "1.6 has no CDI", says: "interfaces has no"},
	"cdi/resource control that is not there":         {reason: "1.6 has no CDI", says: "the container runs", race: true},
	"cdi/annotations":                                {reason: "1.6 has no CDI", says: `environment is ""`},
	"cdi/refused by name":                            {reason: "1.6 has no CDI", says: "was accepted"},
	"cdi/refused with the file":                      {reason: "1.6 has no CDI", says: "was accepted"},
	"cdi/bad files of others":                        {reason: "1.6 has no CDI", says: `environment is ""`},
}

// containerd24 is what containerd 2.4.2 with runc 1.5.3 does (test/cri/oracle).
var containerd24 = map[string]difference{
	"sandbox/verbose status":             {reason: "an empty document comes unasked", says: "information that nobody asked for"},
	"image volumes/digest in the status": {reason: "containerd 2.4 does not know image_ref", says: "mounts: "},
	"cdi/refused with the file":          {reason: "containerd names the device and not its file", says: "has no"},
	"image/stream of the list":           {reason: "containerd ignores the filter: the kubelet has none", says: "images is"},
	"stats/CPU rate":                     {reason: "it is computed at stats_collect_period, a minute in knarr's configuration", says: "the last rate is 0", race: true},
}
