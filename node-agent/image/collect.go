// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// CollectPolicy says which images garbage collection removes. The names of the kubelet's settings
// are in parentheses (https://kubernetes.io/docs/concepts/architecture/garbage-collection/).
type CollectPolicy struct {
	// High is the usage of the disk, in percent, from which on images are removed, and Low the usage
	// at which that ends (imageGCHighThresholdPercent, imageGCLowThresholdPercent). 100 for High turns
	// it off.
	High, Low int
	// MinAge is the time since its pull for which an image stays (imageMinimumGCAge).
	MinAge time.Duration
	// MaxAge is the time without a use after which an image is removed, however full the disk is; 0
	// for no limit (imageMaximumGCAge).
	MaxAge time.Duration
	// NoRoom says that a pull has found no room: at least one image is removed, if one may be.
	NoRoom bool
}

// Check returns an error if the policy makes no sense.
func (p CollectPolicy) Check() error {
	switch {
	case p.High < 0 || p.High > 100 || p.Low < 0 || p.Low > 100:
		return fmt.Errorf("found thresholds of %d and %d percent; allowed: 0 to 100", p.High, p.Low)
	case p.Low >= p.High:
		return fmt.Errorf("found a low threshold of %d percent and a high one of %d; allowed: a lower one",
			p.Low, p.High)
	case p.MinAge < 0 || p.MaxAge < 0:
		return fmt.Errorf("found ages of %s and %s; allowed: 0 or more", p.MinAge, p.MaxAge)
	case p.MaxAge > 0 && p.MaxAge <= p.MinAge:
		return fmt.Errorf("found a maximum age of %s; allowed: 0 for none, or more than the minimum age, %s",
			p.MaxAge, p.MinAge)
	}
	return nil
}

// Removed is an image that was removed.
type Removed struct {
	Image Stored
	Freed int64
	// Why is for people.
	Why string
}

// Collected says what Collect did.
type Collected struct {
	Removed []Removed
	// Leftovers is the number of bytes that killed processes and failed pulls had left.
	Leftovers int64
	// Before and After are the usage of the disk in percent.
	Before, After int
	// Short says that usage is above the low threshold still, although it was above the high one.
	Short bool
	// InUse, Pinned and Young are the numbers of images that had to stay.
	InUse, Pinned, Young int
}

// disk is the state of the filesystem of the store.
type disk struct {
	total, available space
	percent          int // used; the greater of bytes and files
}

// usage returns the state of the filesystem. It counts as the kubelet does: what root alone may
// still take is used.
func (s *Store) usage() (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return disk{}, fmt.Errorf("statfs %s: %w", s.dir, err)
	}
	used := func(available, total int64) int {
		if total <= 0 {
			return 0 // such as the files of btrfs
		}
		return 100 - int(available*100/total)
	}
	d := disk{
		total:     space{int64(st.Blocks) * st.Bsize, int64(st.Files)},
		available: space{int64(st.Bavail) * st.Bsize, int64(st.Ffree)},
	}
	d.percent = max(used(d.available.bytes, d.total.bytes), used(d.available.files, d.total.files))
	return d, nil
}

// missing returns what must become free for a usage of low percent.
func (d disk) missing(low int) space {
	lack := func(available, total int64) int64 { return max(0, total*int64(100-low)/100-available) }
	return space{lack(d.available.bytes, d.total.bytes), lack(d.available.files, d.total.files)}
}

// Collect removes images as the policy says, those first whose last use is longest ago, and what
// killed processes and failed pulls have left. It keeps pinned images, images that users has, and
// images that are pulled, or get a user, while it runs. It notes that images with users are in use.
// It may be repeated, and killed, at any time.
func (s *Store) Collect(ctx context.Context, p CollectPolicy, users Users) (Collected, error) {
	var c Collected
	before, err := s.usage()
	if err != nil {
		return c, err
	}
	c.Before, c.After = before.percent, before.percent
	pressed := p.High < 100 && before.percent >= p.High
	leftovers, err := s.removeLeftovers(ctx, pressed)
	c.Leftovers = leftovers.bytes
	if err != nil {
		return c, err
	}
	all, err := s.listAll(users)
	if err != nil {
		return c, err
	}
	now := time.Now()
	candidates := c.candidates(ctx, p, all, now)
	free := leftovers
	var errs []error
	for i := range candidates {
		img := &candidates[i]
		var why string
		switch d, err := s.usage(); {
		case err != nil:
			return c, err
		case !img.whole:
			why = "some of its layers are missing"
		case p.MaxAge > 0 && now.Sub(img.LastUsed) > p.MaxAge:
			why = fmt.Sprintf("it was not used for %s", now.Sub(img.LastUsed).Round(time.Second))
		case pressed && d.percent > p.Low && !enough(free, before.missing(p.Low)):
			why = fmt.Sprintf("%d%% of the disk are used", d.percent)
		case p.NoRoom && len(c.Removed) == 0:
			why = "a pull has found no room"
		default:
			continue
		}
		freed, err := s.remove(ctx, img)
		free = free.plus(freed)
		if inUse := (*InUseError)(nil); errors.As(err, &inUse) {
			c.InUse++
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove the image %s: %w", img.Name(), err))
			continue
		}
		c.Removed = append(c.Removed, Removed{Image: *img, Freed: freed.bytes, Why: why})
	}
	after, err := s.usage()
	c.After = after.percent
	c.Short = pressed && after.percent > p.Low && !enough(free, before.missing(p.Low))
	return c, errors.Join(append(errs, err)...)
}

// enough reports whether as much has become free as was missing. Some filesystems, such as XFS and
// btrfs, show it only later.
func enough(freed, missing space) bool {
	return freed.bytes >= missing.bytes && freed.files >= missing.files
}

// isYoung reports whether an image must stay for its age. An age below zero, since the clock was
// set back, is not young.
func isYoung(age, least time.Duration) bool { return age >= 0 && age < least }

// candidates returns the images that may be removed, by the time of their last use, and notes the
// use of those that may not.
func (c *Collected) candidates(ctx context.Context, p CollectPolicy, all []Stored,
	now time.Time,
) []Stored {
	var out []Stored
	for _, img := range all {
		switch {
		case len(img.UsedBy) > 0:
			c.InUse++
			if l, err := holdFile(ctx, img.path); l != nil && err == nil {
				l.touch()
				l.close()
			}
		case img.Pinned:
			c.Pinned++
		case img.whole && isYoung(now.Sub(cmp.Or(img.Pulled, img.LastUsed)), p.MinAge):
			c.Young++
		default:
			out = append(out, img)
		}
	}
	slices.SortStableFunc(out, func(a, b Stored) int { return a.LastUsed.Compare(b.LastUsed) })
	return out
}
