// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/image/dockerconfig"
	"github.com/berth-run/berth/node-agent/image/hostsdir"
)

// Limits bound what an image may take, in bytes unless said otherwise. They defend the node, so
// they are above anything that is pulled in earnest.
type Limits struct {
	Manifest int64 // a manifest or index
	Config   int64 // an image configuration
	Blob     int64 // a layer as transferred, and a local archive once it is uncompressed
	Layer    int64 // a layer's uncompressed tar stream, and the sum of its files' sizes
	Entries  int   // number of entries in a layer
	Layers   int   // number of layers in an image; overlayfs takes 500 (OVL_MAX_STACK)
}

// DefaultLimits returns the limits of a store that is opened without WithLimits.
func DefaultLimits() Limits {
	return Limits{
		Manifest: 4 << 20, // what registries accept
		Config:   4 << 20,
		Blob:     64 << 30,
		Layer:    128 << 30,
		Entries:  4 << 20,
		Layers:   490, // leaves room for the layers that a bundle adds
	}
}

// Progress says how far a pull is.
type Progress struct {
	Ref   string
	Layer digest.Digest // diffID
	// Stage is StageRead, StageDownload, StageUnpack or StageDone.
	Stage string
	// Done and Total are bytes of the stage: of the archive, or of the layer as transferred.
	Done, Total int64
	// Layers is the number of layers that the store has to unpack for the image, and Size is their
	// sum, in bytes as transferred. They are 0 at StageRead.
	Layers int
	Size   int64
	// Skipped are, at stage done, the names of the extended attributes of the layer that were not
	// set: those of the host's security policy, those of overlayfs for plain users, and those that
	// the filesystem does not take.
	Skipped []string
}

// Stages of a pull. The layers of an image are in different stages at the same time.
const (
	StageRead     = "read" // of an archive that is compressed as a whole
	StageDownload = "download"
	StageUnpack   = "unpack"
	StageDone     = "done"
)

// Option changes how a store works.
type Option func(*Store)

// WithLimits replaces DefaultLimits.
func WithLimits(l Limits) Option { return func(s *Store) { s.limits = l } }

// WithProgress calls f as pulls go on, from several goroutines at once. It must return soon.
func WithProgress(f func(Progress)) Option { return func(s *Store) { s.progress = f } }

// WithTransport replaces the HTTP transport to registries.
func WithTransport(rt http.RoundTripper) Option { return func(s *Store) { s.transport = rt } }

// WithKeyring pulls with the credentials of a keyring. Without, pulls are anonymous.
func WithKeyring(k Keyring) Option { return func(s *Store) { s.keys = k } }

// WithHosts pulls from the hosts of a directory of hosts.toml files.
func WithHosts(d hostsdir.Dir) Option { return func(s *Store) { s.hosts = d } }

// WithJournal writes the records through a journal: they survive a power loss after its next flush,
// without flushes of their own. The store's directory lies below that of the journal.
func WithJournal(j *durable.Journal) Option { return func(s *Store) { s.journal = j } }

// Beside opens a store for a command beside the agent that it belongs to. It creates nothing until
// something is pulled, and leaves it to the agent to check the layers after a boot, since the
// agent knows from its journal which ones are recorded.
func Beside() Option { return func(s *Store) { s.beside = true } }

// Store is the image store in one directory. Several processes may use one directory at once. Its
// methods may be called from several goroutines.
type Store struct {
	dir       string
	limits    Limits
	progress  func(Progress)
	transport http.RoundTripper
	keys      Keyring // nil for anonymous pulls
	hosts     hostsdir.Dir
	platform  v1.Platform
	format    format
	journal   *durable.Journal
	beside    bool // see Beside
	pinned    []string

	session     string   // this process's directory in tmp
	sessionLock *os.File // flocked while this process lives; nil before its directory exists
	sessionMu   sync.Mutex
	downloads   downloads
	leases      sync.Map // of *lease
	layerLocks  keyLocks
	refLocks    keyLocks
}

// Image is an image that is unpacked on this node.
type Image struct {
	// Ref is the reference as Ensure was given it.
	Ref string
	// Digest is the digest of the manifest for this node's platform. For an image of a docker
	// archive, which has no manifest, it is the digest of one generated from its configuration.
	Digest digest.Digest
	// ConfigDigest is the digest of the configuration, which docker and Kubernetes call the image
	// id.
	ConfigDigest digest.Digest
	// Config holds the image's defaults for running it.
	Config v1.ImageConfig
	// Layers are absolute directories, lowest first, in overlayfs's own form: for lowerdir, in
	// reverse order. None is there twice. They are shared and must not be written to.
	Layers []string
	// Size is the size of configuration and layers as transferred, in bytes.
	Size int64

	created time.Time // as the configuration says
	lease   *lease
}

// Open opens the store in dir, an absolute path, and makes it when it is not there. What a process
// that died had begun is removed.
func Open(dir string, opts ...Option) (*Store, error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("image store: found %q; allowed: an absolute path", dir)
	}
	s := &Store{
		dir:      filepath.Clean(dir),
		limits:   DefaultLimits(),
		progress: func(Progress) {},
		platform: nodePlatform(),
		format:   trustedFormat(),
		transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           nodeDialer(),
			ForceAttemptHTTP2:     true,
			MaxIdleConns:          16,
			IdleConnTimeout:       30 * time.Second,
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
		},
		downloads: downloads{live: map[string]*download{}, slots: make(chan struct{}, 3)},
	}
	for _, o := range opts {
		o(s)
	}
	if s.beside {
		return s, nil
	}
	if err := s.create(); err != nil {
		return nil, err
	}
	err := s.haveSession(context.Background())
	if err != nil && !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) &&
		!errors.Is(err, errNewer) {
		_ = s.Close()
		return nil, fmt.Errorf("image store %s: %w", s.dir, err)
	}
	return s, nil
}

// create creates the directories of the store.
func (s *Store) create() error {
	for _, d := range []string{"", "tmp", partialDir, "locks", "layers", "chains", "images", "refs"} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o700); err != nil {
			return fmt.Errorf("image store: %w", err)
		}
	}
	return nil
}

// Close removes this process's temporary directory, and lets others remove the images that were not
// released. No method may be running or be called afterwards. Layers stay valid.
func (s *Store) Close() error {
	for l := range s.leases.Range {
		l.(*lease).close()
	}
	if s.sessionLock == nil {
		return nil
	}
	err := os.RemoveAll(s.session)
	return errors.Join(err, s.sessionLock.Close())
}

// Ensure makes an image available on this node and returns it. The policy says whether it is
// pulled. Errors are, through errors.As: *ReferenceError, *NotFoundError, *AccessError,
// *PlatformError, *DigestMismatchError, *SizeError, *InvalidImageError and *EntryError, and through
// errors.Is ErrNotPresent; any other is the network's or the file system's, and may pass. When ctx
// ends, so does the pull, and nothing is left of it but the layers that were complete.
//
// Nobody removes the image before the caller has called Image.Release, or ends.
func (s *Store) Ensure(ctx context.Context, ref string, policy PullPolicy) (*Image, error) {
	return s.EnsureWith(ctx, ref, policy)
}

// EnsureWith is Ensure with credentials of the caller's own, which are tried before those of the
// keyring. An image that was pulled with somebody's own credentials is given to another only once
// the registry has shown it to them, too.
func (s *Store) EnsureWith(ctx context.Context, ref string, policy PullPolicy,
	own ...*dockerconfig.Config,
) (*Image, error) {
	r, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	if policy, err = r.policy(policy); err != nil {
		return nil, err
	}
	mine, err := s.lookupAll(r, own)
	if err != nil {
		return nil, err
	}
	if policy != Always {
		if img, err := s.present(ctx, r, policy, mine); img != nil || err != nil {
			return img, err
		}
		if policy == Never {
			return nil, fmt.Errorf("image %s: %w", ref, ErrNotPresent)
		}
		// Of several who want it, one pulls; the others find it then.
		unlock, err := s.refLocks.lock(ctx, r.canonical)
		if err != nil {
			return nil, err
		}
		defer unlock()
		if img, err := s.present(ctx, r, policy, mine); img != nil || err != nil {
			return img, err
		}
	}
	return s.pull(ctx, r, own)
}

// present returns the image when the store has all of it, and nil when it does not. It returns an
// error if a record cannot be read, and ErrNotYours if it may not pull an image that these
// credentials do not open.
func (s *Store) present(ctx context.Context, r reference, policy PullPolicy,
	own []dockerconfig.Credential,
) (*Image, error) {
	var rec refRecord
	err := readJSON(s.refPath(r), &rec)
	if err != nil && !errors.Is(err, errNoRecord) {
		return nil, err
	}
	if err != nil || rec.Ref != r.canonical || rec.Manifest.Validate() != nil {
		return nil, nil //nolint:nilerr // there is no record
	}
	if r.local() && policy != Never && !rec.isCurrent(r) {
		return nil, nil
	}
	if !rec.opens(own) {
		if policy == Never {
			return nil, fmt.Errorf("image %s: %w", r.raw, ErrNotYours)
		}
		return nil, nil
	}
	return s.stored(ctx, r, rec.Manifest)
}

// stored returns an image by its manifest's digest when the store has all of it.
func (s *Store) stored(ctx context.Context, r reference, manifest digest.Digest) (_ *Image,
	err error,
) {
	held, err := s.hold(ctx, manifest)
	if held == nil || err != nil {
		return nil, err
	}
	img := &Image{Ref: r.raw, lease: held}
	whole := false
	defer func() {
		if !whole {
			held.close()
		}
	}()
	var rec imageRecord
	if err := decodeRecord(held.f, &rec); errors.Is(err, errNoRecord) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if rec.Manifest != manifest || !s.isWhole(&rec) {
		return nil, nil
	}
	img.Digest, img.ConfigDigest, img.Config = rec.Manifest, rec.ConfigID, rec.Config
	img.Size = rec.Size
	for _, l := range rec.Layers {
		img.Layers = append(img.Layers, filepath.Join(s.dir, l))
	}
	img.Layers = distinct(img.Layers)
	whole = true
	held.touch()
	return img, nil
}

// isWhole reports whether the store has all layers of a record.
func (s *Store) isWhole(rec *imageRecord) bool {
	return len(rec.Layers) > 0 && !slices.ContainsFunc(rec.Layers, func(l string) bool {
		return !filepath.IsLocal(l) || !isDir(filepath.Join(s.dir, l))
	})
}

// pull reads the reference and unpacks what the store does not have.
func (s *Store) pull(ctx context.Context, r reference, own []*dockerconfig.Config) (*Image, error) {
	if s.beside {
		if err := s.create(); err != nil {
			return nil, err
		}
	}
	if err := s.haveSession(ctx); err != nil {
		return nil, err
	}
	if !r.local() {
		return s.pullFrom(ctx, r, own)
	}
	src, err := openLocal(ctx, r, s.session, s.limits, s.platform, func(done, total int64) {
		s.progress(Progress{Ref: r.raw, Stage: StageRead, Done: done, Total: total})
	})
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return s.read(ctx, r, src)
}

// read unpacks what the store does not have of a source.
func (s *Store) read(ctx context.Context, r reference, src source) (_ *Image, err error) {
	var img *Image
	defer func() {
		if err != nil && img != nil {
			img.Release()
		}
	}()
	var before refRecord
	if readJSON(s.refPath(r), &before) != nil || before.Ref != r.canonical {
		before = refRecord{}
	}
	reg, remote := src.(*registry)
	if remote {
		// The answer to a HEAD request is enough to see that nothing changed, and is not counted by
		// registries that limit pulls.
		if before.Top != "" && reg.current(ctx) == before.Top {
			if img, err = s.stored(ctx, r, before.Manifest); err != nil {
				return nil, err
			}
			if img != nil {
				return img, withRef(r, s.noteAccess(r, before, reg))
			}
		}
	}
	res, err := resolve(ctx, r.raw, s.platform, src, s.limits)
	if err != nil {
		return nil, withRef(r, err)
	}
	if img, err = s.stored(ctx, r, res.manifest); err != nil {
		return nil, withRef(r, err)
	}
	if img == nil {
		if img, err = s.unpackAll(ctx, r, src, res); err != nil {
			return nil, withRef(r, err)
		}
	}
	rec := refRecord{
		Version: recordVersion, Ref: r.canonical, Top: res.top, Manifest: res.manifest,
		File: src.identity(),
	}
	if remote {
		rec.Access = before.accessAfter(reg, before.Manifest == rec.Manifest)
	}
	if err := s.writeRef(ctx, r, rec); err != nil {
		return nil, withRef(r, err)
	}
	return img, nil
}

// writeRef leads a reference to an image. It excludes the removal of the image that the reference
// led to before, which takes the reference along.
func (s *Store) writeRef(ctx context.Context, r reference, rec refRecord) error {
	lock, err := s.lockLayers(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	return s.writeJSON(s.refPath(r), rec)
}

// unpackAll unpacks an image and records it.
func (s *Store) unpackAll(ctx context.Context, r reference, src source, res *resolved) (*Image,
	error,
) {
	// The layers have no record yet that keeps them.
	keep, err := s.announce(ctx, res.image.RootFS.DiffIDs)
	if err != nil {
		return nil, err
	}
	defer keep()
	if err := s.forgetRemoved(ctx); err != nil {
		return nil, err
	}
	img, err := s.unpack(ctx, r, src, res)
	if err != nil {
		return nil, err
	}
	// Once for the image, also for layers that another pull has just unpacked. The record comes
	// after it.
	if err := s.syncLayers(); err != nil {
		return nil, err
	}
	if err := s.writeImage(img); err != nil {
		return nil, err
	}
	if img.lease, err = s.hold(ctx, img.Digest); err != nil {
		return nil, err
	}
	if img.lease == nil {
		return nil, errors.New("the image was removed as soon as it was there")
	}
	return img, nil
}

// noteAccess records that a registry has shown the image of a record.
func (s *Store) noteAccess(r reference, rec refRecord, reg *registry) error {
	access := rec.accessAfter(reg, true)
	if slices.Equal(access, rec.Access) {
		return nil
	}
	rec.Access = access
	return s.writeJSON(s.refPath(r), rec)
}

// withRef names the image in errors that do not name it themselves.
func withRef(r reference, err error) error {
	if err == nil {
		return nil
	}
	var (
		notFound  *NotFoundError
		access    *AccessError
		platform  *PlatformError
		malformed *ReferenceError
		notImage  *NotImageError
	)
	if errors.As(err, &notFound) || errors.As(err, &access) || errors.As(err, &platform) ||
		errors.As(err, &malformed) || errors.As(err, &notImage) {
		return err
	}
	return fmt.Errorf("image %s: %w", r.raw, err)
}
