// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// facts are the flags of the agent that the other commands need. The agent writes them when it
// starts, so that these commands need no flag but --state-dir.
type facts struct {
	Manifests string   `json:"manifests"`
	Node      string   `json:"node,omitempty"` // of a cluster; an agent that works alone writes none, nor did earlier versions
	RunDir    string   `json:"runDir"`
	LogDir    string   `json:"logDir"`
	Berth     string   `json:"berth"`
	Handlers  []string `json:"handlers,omitempty"` // as NAME=PATH
}

func factsFile(stateDir string) string { return filepath.Join(stateDir, "agent.json") }

func (o *options) writeFacts() error {
	f := facts{Manifests: o.manifests, RunDir: o.runDir, LogDir: o.logDir, Berth: o.berth, Handlers: o.handlers}
	if o.manifests == "" {
		f.Node = o.nodeName
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return durable.Replace(factsFile(o.stateDir), data, durable.Options{})
}

// checkSource refuses a state directory whose containers come from elsewhere: from another node of
// a cluster, from a cluster or from manifests. The agent would take each of them for no longer
// wanted, and remove it with all that it has written.
func (o *options) checkSource(bundles *bundle.Root) error {
	// Without agent.json, or with a damaged one, nobody knows where they come from. That is no reason
	// to leave a machine without its containers after a loss of power.
	before, _ := readFacts(o.stateDir)
	var from, flag string
	switch {
	case before.RunDir == "":
		return nil
	case before.Manifests != "" && o.manifests == "":
		from, flag = "the manifests in "+before.Manifests, "--manifests "+before.Manifests
	case before.Manifests == "" && o.manifests != "":
		from, flag = "a cluster", "no --manifests"
	case before.Node != "" && before.Node != o.nodeName:
		from, flag = "node "+before.Node, "--node-name "+before.Node
	default:
		return nil
	}
	ids, err := bundles.List()
	if err != nil || len(ids) == 0 {
		return err
	}
	return fmt.Errorf("--state-dir: found %d containers of %s in %s, which this agent would remove; allowed: %s, or another --state-dir and "+
		"--run-dir. To have them removed, remove %s", len(ids), from, o.stateDir, flag, factsFile(o.stateDir))
}

// readFacts returns the facts of the last agent with this state directory.
func readFacts(stateDir string) (facts, error) {
	var f facts
	data, err := os.ReadFile(factsFile(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return f, fmt.Errorf("--state-dir: found no agent.json in %s; allowed: the --state-dir of an agent that has run", stateDir)
	}
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return f, needRoot(fmt.Errorf("read what the agent runs with: %w", err))
	}
	return f, nil
}

// containers returns the Containers of the agent that works alone with this state directory. Where
// some cannot be read, it returns the others with an error.
func (o *options) containers() ([]v1alpha1.Container, error) {
	all, err := folder.Read(o.stateDir)
	return all, needRoot(err)
}

// needRoot adds to a permission error that the command has to run as root.
func needRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("found user id %d; allowed: 0, since what the agent writes is root's alone (sudo berth-agent …): %w", os.Geteuid(), err)
	}
	return err
}
