// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berth-run/berth/internal/durable"
)

// networkFault returns the path of the file that says why containers cannot be connected.
func networkFault(stateDir string) string { return filepath.Join(stateDir, "network-fault") }

// WriteNetworkFault stores the reason why containers cannot be connected to the node's network, for
// the command status; nil removes it.
func WriteNetworkFault(stateDir string, fault error) error {
	if fault != nil {
		return durable.Replace(networkFault(stateDir), []byte(fault.Error()), durable.Options{})
	}
	err := os.Remove(networkFault(stateDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what was wrong with the network: %w", err)
	}
	return nil
}

// ReadNetworkFault returns the stored reason; "" if there is none.
func ReadNetworkFault(stateDir string) (string, error) {
	data, err := os.ReadFile(networkFault(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(data), err
}
