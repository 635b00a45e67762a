package cri_test

import (
	"fmt"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func int64Value(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }

func runAs(uid int64) func(*containerConfig) {
	return security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = int64Value(uid) })
}

// identity runs id and sorts the groups.
func (p *pod) identity(opts ...func(*containerConfig)) string {
	return sortGroups(p.sees("echo $(id -u):$(id -g) $(id -G)", opts...))
}

func sortGroups(line string) string {
	f := strings.Fields(line)
	if len(f) < 2 {
		return line
	}
	slices.Sort(f[1:])
	return f[0] + " " + strings.Join(slices.Compact(f[1:]), " ")
}

var userCases = []testCase{
	{"user/of the image", func(t *T) {
		p := t.pod()
		for user, want := range map[string]string{
			"": "0:0 0", "app": "1001:1002 1002 50000 50001", "1001": "1001:1002 1002 50000 50001", "app:extra": "1001:50000 50000", "1001:3000": "1001:3000 3000",
			"4321": "4321:0 0", "4321:4322": "4321:4322 4322", "nobody": "65534:65534 50001 65534", "0:50000": "0:50000 50000",
		} {
			spec := t.imageOf("user-"+strings.ReplaceAll("x"+user, ":", "."), func(c *v1Config) { c.User = user })
			got := p.identity(imageIs(spec))
			// A group by name or number replaces those of /etc/group or joins them,
			// as the version of the runtime has it; the two first numbers count.
			t.equal("user and group of "+user, strings.Fields(got)[0], strings.Fields(want)[0])
			if !strings.Contains(user, ":") {
				t.equal("groups of "+user, got, want)
			}
		}
	}},
	{"user/of the image that does not exist", func(t *T) {
		p := t.pod()
		for _, user := range []string{"ghost", "app:ghosts"} {
			spec := t.imageOf("ghost-"+strings.ReplaceAll(user, ":", "."), func(c *v1Config) { c.User = user })
			p.fails("user "+user, imageIs(spec))
			if user == "ghost" {
				t.equal("with a user of the config", p.identity(imageIs(spec), runAs(1001)), "1001:1002 1002 50000 50001")
			}
		}
	}},
	{"user/of the config", func(t *T) {
		p := t.pod()
		for name, x := range map[string]struct {
			set  func(*runtimeapi.LinuxContainerSecurityContext)
			want string
		}{
			"uid":         {func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = int64Value(1001) }, "1001:1002 1002 50000 50001"},
			"root":        {func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = int64Value(0) }, "0:0 0"},
			"unknown uid": {func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = int64Value(4321) }, "4321:0 0"},
			"name":        {func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUsername = "app" }, "1001:1002 1002 50000 50001"},
			"uid and group": {func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.RunAsGroup = int64Value(4321), int64Value(4322)
			}, "4321:4322 4322"},
		} {
			t.equal(name, p.identity(security(x.set)), x.want)
		}
		got := p.sees("echo $(id -u):$(id -g)", security(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUsername, s.RunAsGroup = "app", int64Value(4322)
		}))
		t.equal("name and group", got, "1001:4322")
	}},
	{"user/of the config before that of the image", func(t *T) {
		spec := t.imageOf("user-xapp", func(c *v1Config) { c.User = "app" })
		t.equal("identity", t.pod().identity(imageIs(spec), runAs(65534)), "65534:65534 50001 65534")
	}},
	{"user/that is refused", func(t *T) {
		p := t.pod()
		for name, set := range map[string]func(*runtimeapi.LinuxContainerSecurityContext){
			"a group without a user": func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsGroup = int64Value(1002) },
			"a name nobody has":      func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUsername = "ghost" },
			"a negative user":        func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = int64Value(-5) },
			"a user of 33 bits":      func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = int64Value(1 << 33) },
		} {
			p.fails(name, security(set))
		}
	}},
	{"user/group without a user in the sandbox", func(t *T) {
		_, err := t.tryPod(func(c *podConfig) { c.Linux.SecurityContext.RunAsGroup = int64Value(1002) })
		t.refused("a group without a user", err)
	}},
	{"user/of the sandbox", func(t *T) {
		p := t.pod(func(c *podConfig) {
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = int64Value(1001), int64Value(1002)
			c.Linux.SecurityContext.SupplementalGroups = []int64{77}
		})
		t.equal("a container is not bound to it", p.identity(), "0:0 0")
	}},
	{"user/supplemental groups", func(t *T) {
		p := t.pod()
		groups := func(uid int64, policy runtimeapi.SupplementalGroupsPolicy, list ...int64) func(*containerConfig) {
			return security(func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.SupplementalGroups, s.SupplementalGroupsPolicy = int64Value(uid), list, policy
			})
		}
		c := p.start(groups(1001, runtimeapi.SupplementalGroupsPolicy_Merge, 1234, 5678))
		t.equal("merged", sortGroups(c.sh("echo $(id -u):$(id -g) $(id -G)")), "1001:1002 1002 1234 50000 50001 5678")
		t.equal("merged with none", p.identity(groups(4321, runtimeapi.SupplementalGroupsPolicy_Merge, 1234)), "4321:0 0 1234")
		t.equal("of the first process", sortGroups("x "+c.sh("awk '/^Groups:/ {$1=\"\"; print}' /proc/1/status")), "x 1002 1234 50000 50001 5678")
	}},
	{"user/strict supplemental groups", func(t *T) {
		p := t.pod()
		for uid, want := range map[int64]string{1001: "1001:1002 1002 1234", 4321: "4321:0 0 1234", 0: "0:0 0 1234"} {
			c := p.start(security(func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.SupplementalGroups, s.SupplementalGroupsPolicy = int64Value(uid), []int64{1234}, runtimeapi.SupplementalGroupsPolicy_Strict
			}))
			t.equal(fmt.Sprintf("groups of %d", uid), sortGroups(c.sh("echo $(id -u):$(id -g) $(id -G)")), want)
		}
	}},
	{"user/in the status", func(t *T) {
		p := t.pod()
		for policy, want := range map[runtimeapi.SupplementalGroupsPolicy][]int64{
			runtimeapi.SupplementalGroupsPolicy_Merge: {1002, 1234, 50000, 50001}, runtimeapi.SupplementalGroupsPolicy_Strict: {1002, 1234},
		} {
			c := p.start(security(func(s *runtimeapi.LinuxContainerSecurityContext) {
				s.RunAsUser, s.SupplementalGroups, s.SupplementalGroupsPolicy = int64Value(1001), []int64{1234}, policy
			}))
			u := c.status().GetUser().GetLinux()
			got := slices.Clone(u.GetSupplementalGroups())
			slices.Sort(got)
			t.equal("user, group, groups", []any{u.GetUid(), u.GetGid(), got}, []any{1001, 1002, want})
		}
	}},
	{"user/cannot change what is root's", func(t *T) {
		c := t.pod().start(runAs(1001))
		_, _, code := c.exec("sh", "-c", "echo x > /etc/passwd")
		if code == 0 {
			t.errorf("it wrote /etc/passwd")
		}
		c.sh("echo x > /tmp/file && test -O /tmp/file")
	}},
}
