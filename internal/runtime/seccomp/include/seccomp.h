/* Of libseccomp's header, what runc's libcontainer/seccomp/patchbpf takes. */
#include <linux/audit.h>
#include <linux/seccomp.h>

#define SCMP_ACT_ERRNO(n) (SECCOMP_RET_ERRNO | ((n) & SECCOMP_RET_DATA))
