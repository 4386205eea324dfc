// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// flatten returns a configuration list as text with all of its plugins, also those that it has from
// files of their own.
func flatten(list *libcni.NetworkConfigList) json.RawMessage {
	out := map[string]any{}
	_ = json.Unmarshal(list.Bytes, &out) // libcni has read the list from it
	var all []json.RawMessage
	for _, p := range list.Plugins {
		all = append(all, p.Bytes)
	}
	out["cniVersion"], out["plugins"], out["loadOnlyInlinedPlugins"] = list.CNIVersion, all, true
	delete(out, "cniVersions")
	text, _ := json.Marshal(out)
	return text
}

// list returns the configuration list of the node's network: the first one of ConfDir by name, as
// the container runtimes of the kubelet choose, else that of the bridge. It is nil if containers
// have loopback alone.
func (n *Networks) list(ctx context.Context) (*libcni.NetworkConfigList, error) {
	file, err := n.file()
	if err != nil {
		return nil, err
	}
	if file != "" && len(n.BinDirs) > 0 {
		return load(file)
	}
	if missing := n.missingBridge(); missing != nil {
		return nil, nil //nolint:nilerr // that is no fault: containers have loopback alone
	}
	return n.Bridge.list(ctx, libcni.NewCNIConfig(n.BinDirs, &plugins{}))
}

// file returns the file of the node's configuration list; "" if there is none.
func (n *Networks) file() (string, error) {
	files, err := n.files()
	if err != nil || len(files) == 0 {
		return "", err
	}
	return files[0], nil
}

// files returns the configuration files in ConfDir, by name.
func (n *Networks) files() ([]string, error) {
	files, err := libcni.ConfFiles(n.ConfDir, []string{".conf", ".conflist", ".json"})
	slices.Sort(files)
	return files, err
}

// load reads a configuration list, or the configuration of one plugin.
func load(file string) (list *libcni.NetworkConfigList, err error) {
	if strings.HasSuffix(file, ".conflist") {
		list, err = libcni.NetworkConfFromFile(file)
	} else {
		list, err = loadOne(file)
	}
	if err != nil {
		return nil, fmt.Errorf("--cni-conf-dir: %s: %w", file, err)
	}
	return list, nil
}

// loadOne reads the configuration of one plugin as a list.
func loadOne(file string) (*libcni.NetworkConfigList, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	one, err := libcni.NetworkPluginConfFromBytes(text)
	if err != nil {
		return nil, err
	}
	if text, err = json.Marshal(map[string]any{
		"name": one.Network.Name, "cniVersion": one.Network.CNIVersion,
		"plugins": []json.RawMessage{text},
	}); err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(text)
}

// Missing returns why the node's containers have loopback alone, or nil if they have a network.
func (n *Networks) Missing() error {
	if len(n.BinDirs) > 0 {
		if file, err := n.file(); err != nil || file != "" {
			return err
		}
	}
	return n.missingBridge()
}

// missingBridge returns why containers of a node without a configuration list have loopback alone,
// or nil if they have the bridge. It does not look for the list again, which may be there since.
func (n *Networks) missingBridge() error {
	if len(n.BinDirs) == 0 {
		return errors.New("--cni-bin-dir is empty")
	}
	if n.Bridge == nil {
		return fmt.Errorf("found no configuration list in %s (--cni-conf-dir)", n.ConfDir)
	}
	if err := installed(n.BinDirs, bridgePlugins()...); err != nil {
		return fmt.Errorf("%w (Debian: apt install containernetworking-plugins)", err)
	}
	return nil
}
