// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"os"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
)

func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }
