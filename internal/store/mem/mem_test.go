package mem

import (
	"testing"

	"knarr.dev/knarr/internal/store/storetest"
)

func TestSuite(t *testing.T) {
	storetest.Run(t, func(testing.TB) storetest.Compacter { return New() })
}
