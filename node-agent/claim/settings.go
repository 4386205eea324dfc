// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/bundle"
)

// Settings are the flags of the agent that the other commands need, and those that say where its
// containers come from. The agent writes them when it starts, so that these commands need no flag
// but --state-dir.
type Settings struct {
	Manifests string `json:"manifests"`
	// of a cluster; an agent that works alone writes none, nor did earlier versions
	Node     string   `json:"node,omitempty"`
	RunDir   string   `json:"runDir"`
	LogDir   string   `json:"logDir"`
	Berth    string   `json:"berth"`
	Handlers []string `json:"handlers,omitempty"` // as NAME=PATH
	// of images; earlier versions wrote none
	RegistryConfig string   `json:"registryConfig,omitempty"`
	RegistryHosts  string   `json:"registryHosts,omitempty"`
	PinnedImages   []string `json:"pinnedImages,omitempty"`
}

func settingsFile(stateDir string) string { return filepath.Join(stateDir, "agent.json") }

// Write writes the settings into the state directory.
func (s Settings) Write(stateDir string) error {
	if s.Manifests != "" {
		s.Node = ""
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return durable.Replace(settingsFile(stateDir), data, durable.Options{})
}

// ErrNoSettings says that no agent has run with a state directory.
var ErrNoSettings = errors.New("--state-dir: found no agent.json")

// Read returns the settings of the last agent with this state directory; ErrNoSettings if there was
// none.
func Read(stateDir string) (Settings, error) {
	var s Settings
	data, err := os.ReadFile(settingsFile(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf(
			"%w in %s; allowed: the --state-dir of an agent that has run", ErrNoSettings, stateDir)
	}
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read what the agent runs with: %w", err)
	}
	return s, nil
}

// CheckSource refuses a state directory whose containers come from elsewhere: from another node of
// a cluster, from a cluster or from manifests. The agent would take each of them for no longer
// wanted, and remove it with all that it has written.
func (s Settings) CheckSource(stateDir string, bundles *bundle.Root) error {
	// Without agent.json, or with a damaged one, nobody knows where they come from. That is no reason
	// to leave a machine without its containers after a loss of power.
	before, _ := Read(stateDir)
	var from, flag string
	switch {
	case before.RunDir == "":
		return nil
	case before.Manifests != "" && s.Manifests == "":
		from, flag = "the manifests in "+before.Manifests, "--manifests "+before.Manifests
	case before.Manifests == "" && s.Manifests != "":
		from, flag = "a cluster", "no --manifests"
	case before.Node != "" && before.Node != s.Node:
		from, flag = "node "+before.Node, "--node-name "+before.Node
	default:
		return nil
	}
	ids, err := bundles.List()
	if err != nil || len(ids) == 0 {
		return err
	}
	return fmt.Errorf(
		"--state-dir: found %d containers of %s in %s, which this agent would remove; allowed: %s, or another --state-dir and "+
			"--run-dir. To have them removed, remove %s", len(ids), from, stateDir, flag,
		settingsFile(stateDir))
}
