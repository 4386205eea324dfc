// SPDX-License-Identifier: Apache-2.0

// Package image is the image store of a node: it pulls an image, verifies it, unpacks its layers
// once and shares them between all images and containers as read-only lower directories of
// overlayfs.
//
//	store, err := image.Open("/var/lib/berth/image")
//	img, err := store.Ensure(ctx, "docker.io/library/busybox:1.37", image.IfNotPresent)
//	// img.Layers are directories, lowest first, for overlayfs's lowerdir
//
// References have the form of podman's and skopeo's: a registry reference, or
// "oci:DIR[:TAG|@DIGEST]", "oci-archive:FILE[:TAG]", "docker-archive:FILE[:NAME:TAG]"; and
// "archive:PATH[:NAME]", which finds out which of these it is.
//
// # What it must not know
//
// Containers, Kubernetes, bundles and mounts: it imports nothing else of Berth. Mounting the layers
// is package bundle's work; choosing what to pull and when is package reconcile's.
//
// # Why the layers are applied by our own code
//
// An image is hostile input, written by root. The libraries that apply layers (containerd's
// pkg/archive, umoci's oci/layer) resolve each name to a path string first and then work on that
// string, and containerd's wants the layers below mounted while it applies, so that its result is
// bound to one chain. Here every entry is applied relative to a directory file descriptor that was
// opened with openat2(2) under RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, and the last component of a
// name is never followed; a layer is unpacked on its own, in overlayfs's own form of whiteouts, so
// that images on different bases share it. It also spares the agent those libraries' dependencies.
// The registry protocol's authentication, references and errors are go-containerregistry's; tar is
// the standard library's; gzip and zstd are klauspost/compress's.
//
// # On disk
//
//	DIR/boot                      the boot (boot_id in random(4)) in which the layers were checked
//	DIR/layers.lock               taken while layers are removed, or announced by a pull
//	DIR/lock                      taken while temporary directories are made or cleaned
//	DIR/locks/                    one flock(2)ed file for each layer being unpacked
//	DIR/tmp/SESSION/              what a living process is working on; of a dead one, Open removes it
//	DIR/layers/ALGO/DIFFID/diff   a layer that means the same on any base
//	DIR/chains/ALGO/CHAINID/diff  a layer whose meaning depends on those below it (see below)
//	DIR/images/ALGO/DIGEST.json   what a manifest came to: configuration, layers
//	DIR/partial/ALGO-DIGEST       the bytes of a blob whose download broke, or goes on (flocked then)
//	DIR/pins/HASH.json            a reference whose image garbage collection keeps
//	DIR/refs/HASH.json            which manifest a reference came to last
//
// A layer depends on those below it when it removes something of theirs (a whiteout), puts files
// into a directory that it does not itself describe (whose owner and mode, or whose being a
// symbolic link, the layers below say), or makes a hard link to a file of theirs. Such a layer is
// kept by the ChainID of the image specification (config.md, "Layer ChainID"), every other by its
// DiffID. An image that names a layer of the latter kind several times has its directory once, at
// its uppermost place.
//
// # Extended attributes
//
// They are set where the filesystem takes them (image-spec layer.md). The names of those that are
// not set are in Progress: those that the filesystem refuses, those of the host's security policy,
// and user.overlay.*. A layer is refused for trusted.overlay.*, and for a security.capability that
// cannot be set.
//
// # At a loss of power
//
// Everything appears under its final name by rename(2), so a process that is killed at any moment
// leaves nothing behind but a directory in tmp. The layers of an image are flushed by one
// syncfs(2), and the record of the image is written after it: a recorded layer is whole. After a
// boot, Open removes the layers that no record of a whole image names.
package image
