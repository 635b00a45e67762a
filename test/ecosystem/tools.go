//go:build tools

package ecosystem

import _ "helm.sh/helm/v4/cmd/helm"
