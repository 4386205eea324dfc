// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// unpack unpacks the missing layers of an image.
func (s *Store) unpack(ctx context.Context, r reference, src source, res *resolved) (*Image,
	error,
) {
	ids := res.image.RootFS.DiffIDs
	chains := chainIDs(ids)
	img := &Image{
		Ref:          r.raw,
		Digest:       res.manifest,
		ConfigDigest: res.config.Digest,
		Config:       res.image.Config,
		Size:         res.config.Size,
	}
	if created := res.image.Created; created != nil {
		img.created = *created
	}
	// What has to come over the network starts now, all at once; layers are unpacked in order as
	// they arrive.
	pending := make([]*download, len(ids))
	reg, remote := src.(*registry)
	defer func() {
		for _, dl := range pending {
			if dl != nil {
				s.downloads.leave(dl, false)
			}
		}
	}()
	missing := Progress{Ref: r.raw}
	for i, id := range ids {
		if s.findLayer(id, chains[i]) == "" {
			missing.Layers++
			missing.Size += res.layers[i].Size
		}
	}
	for i, id := range ids {
		img.Size += res.layers[i].Size
		if !remote || s.findLayer(id, chains[i]) != "" {
			continue
		}
		pending[i] = s.downloads.join(ctx, fmt.Sprintf("layer %d blob", i), res.layers[i], reg,
			downloadDirs{partial: filepath.Join(s.dir, partialDir), session: s.session},
			func(done int64) {
				p := missing
				p.Layer, p.Stage, p.Done, p.Total = id, StageDownload, done, res.layers[i].Size
				s.progress(p)
			})
	}
	for i := range ids {
		dir, err := s.ensureLayer(ctx, missing, src, res, i, chains[i], pending[i], img.Layers)
		if err != nil {
			return nil, err
		}
		img.Layers = append(img.Layers, dir)
		if pending[i] != nil { // frees its disk space
			s.downloads.leave(pending[i], true)
			pending[i] = nil
		}
	}
	img.Layers = distinct(img.Layers)
	return img, nil
}

// findLayer returns the directory of a layer, "" when the store does not have it.
func (s *Store) findLayer(diffID, chainID digest.Digest) string {
	for _, dir := range []string{s.layerPath("layers", diffID), s.layerPath("chains", chainID)} {
		if diff := filepath.Join(dir, "diff"); isDir(diff) {
			return diff
		}
	}
	return ""
}

// ensureLayer returns the directory of one layer, and unpacks it when it is not there. p holds the
// fields of its progress that all layers of the image share.
func (s *Store) ensureLayer(ctx context.Context, p Progress, src source, res *resolved, i int,
	chainID digest.Digest, dl *download, lowers []string,
) (string, error) {
	diffID := res.image.RootFS.DiffIDs[i]
	if dir := s.findLayer(diffID, chainID); dir != "" {
		return dir, nil
	}
	in := layerInput{number: i, diffID: diffID}
	if dl != nil {
		// Waited for without the lock: another pull may finish the layer first.
		f, err := dl.wait(ctx)
		if err != nil {
			return "", err
		}
		in.r = io.NewSectionReader(f, 0, res.layers[i].Size)
	}
	unlock, err := s.lockLayer(ctx, diffID.String())
	if err != nil {
		return "", err
	}
	defer unlock()
	if dir := s.findLayer(diffID, chainID); dir != "" {
		return dir, nil
	}
	if dl == nil {
		blob, err := src.blob(ctx, res.layers[i])
		if err != nil {
			return "", err
		}
		defer blob.Close()
		in.r = blob
		if !res.anonymous {
			in.blob = res.layers[i].Digest
		}
	}
	p.Layer, p.Stage, p.Total = diffID, StageUnpack, res.layers[i].Size
	s.progress(p)
	in.r = &meter{r: in.r, note: func(done int64) {
		p.Done = done
		s.progress(p)
	}}
	tmp, err := os.MkdirTemp(s.session, "layer-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	layer, trash := filepath.Join(tmp, "layer"), filepath.Join(tmp, "trash")
	diff := filepath.Join(layer, "diff")
	for _, d := range []string{layer, trash, diff} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return "", err
		}
	}
	// The root of an image that says nothing about it.
	if err := os.Chmod(diff, 0o755); err != nil {
		return "", err
	}
	result, err := unpackLayer(ctx, in, diff, trash, lowers, s.format, s.limits)
	if err != nil {
		return "", err
	}
	if s.beside { // the agent's journal may restore a record that vouches for the layer
		if err := s.syncLayers(); err != nil {
			return "", err
		}
	}
	final := s.layerPath("layers", diffID)
	if result.dependent {
		final = s.layerPath("chains", chainID)
	}
	if err := publish(layer, final); err != nil {
		return "", err
	}
	p.Stage, p.Done, p.Skipped = StageDone, p.Total, result.skipped
	s.progress(p)
	return filepath.Join(final, "diff"), nil
}

// publish gives a finished directory its final name. Within this boot, a name means a whole layer;
// after a loss of power, only a record of an image does.
func publish(tmp, final string) error {
	if err := os.MkdirAll(filepath.Dir(final), 0o700); err != nil {
		return err
	}
	return os.Rename(tmp, final)
}

// forgetRemoved takes the records that a command beside the agent has removed out of the journal.
// After a loss of power, the journal would restore them, and they would vouch for the layers of
// this pull, which may be incomplete by then.
func (s *Store) forgetRemoved(ctx context.Context) error {
	found, err := s.journal.FindRemoved(filepath.Join(s.dir, "images"))
	if err != nil || !found {
		return err
	}
	return s.journal.Flush(ctx)
}

// syncLayers flushes all layers, so that they survive a power loss. One flush of the filesystem
// costs less than one of each file of a layer.
func (s *Store) syncLayers() error {
	f, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", s.dir, err)
	}
	return nil
}

func (s *Store) layerPath(kind string, id digest.Digest) string {
	return filepath.Join(s.dir, layerDir(kind, id))
}

// layerDir returns the directory of a layer relative to the store.
func layerDir(kind string, id digest.Digest) string {
	return filepath.Join(kind, id.Algorithm().String(), id.Encoded())
}

func isDir(p string) bool {
	info, err := os.Lstat(p)
	return err == nil && info.IsDir()
}

// distinct keeps the uppermost of equal layers, since overlayfs refuses a directory that it has
// already (ELOOP). It hides all that the lower ones show: each name in them is also in the
// uppermost, as the same file, or as a directory with the same names.
func distinct(layers []string) []string {
	var out []string // uppermost first
	for _, dir := range slices.Backward(layers) {
		if !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	slices.Reverse(out)
	return out
}
