// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"time"

	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/reconcile"
)

// ImageGC says which images the agent removes, and how often it looks.
type ImageGC struct {
	image.CollectPolicy
	// Period is the time between two looks.
	Period time.Duration
}

// collectImages removes images now and then, and at once after a pull that found no room.
func (a *agent) collectImages(ctx context.Context) error {
	ticker := time.NewTicker(a.ImageGC.Period)
	defer ticker.Stop()
	policy := a.ImageGC.CollectPolicy
	for {
		a.collectOnce(ctx, policy)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			policy.NoRoom = false
		case <-a.images.full:
			policy.NoRoom = a.ImageGC.High < 100
		}
	}
}

func (a *agent) collectOnce(ctx context.Context, p image.CollectPolicy) {
	c, err := a.images.store.Collect(ctx, p, func() ([]image.Use, error) {
		return reconcile.ImageUses(a.bundles)
	})
	for _, r := range c.Removed {
		a.Log.Info("image removed", "image", r.Image.Name(), "digest", r.Image.Digest, "why", r.Why,
			"lastUsed", r.Image.LastUsed.Format(time.RFC3339), "freedBytes", r.Freed)
	}
	if c.Leftovers > 0 {
		a.Log.Info("what killed and failed pulls had left was removed", "freedBytes", c.Leftovers)
	}
	switch {
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
	case err != nil:
		a.Log.Error("garbage collection of images failed", "error", err, "diskPercent", c.After)
	case c.Short:
		a.Log.Warn("the disk of images is too full, and no other image may be removed",
			"diskPercent", c.After, "lowThreshold", a.ImageGC.Low, "removed", len(c.Removed),
			"inUse", c.InUse, "pinned", c.Pinned, "young", c.Young)
	case p.NoRoom && len(c.Removed) == 0:
		a.Log.Warn("garbage collection of images found nothing to remove", "diskPercent", c.After,
			"inUse", c.InUse, "pinned", c.Pinned, "young", c.Young)
	case len(c.Removed) > 0:
		a.Log.Info("garbage collection of images ended", "diskPercentBefore", c.Before,
			"diskPercent", c.After, "removed", len(c.Removed), "inUse", c.InUse)
	}
}
