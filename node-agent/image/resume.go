// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// stall is the time for which a registry may send nothing before a download is aborted and
	// tried again.
	stall = 2 * time.Minute
	// attempts is the number of tries in a row that a download may fail without progress.
	attempts = 3
	// progressed is the number of bytes after which a try that broke was no failure.
	progressed = 1 << 20
)

// transfer is a blob on its way into a file.
type transfer struct {
	what string
	d    v1.Descriptor
	f    *os.File
	hash hash.Hash // of the first done bytes of f
	done int64
	// resumed says that the bytes did not come in one piece.
	resumed bool
}

// takeUp begins with the bytes that the file has. They are not trusted: the digest is of the whole.
func (t *transfer) takeUp(ctx context.Context) error {
	info, err := t.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() > t.d.Size {
		return t.restart()
	}
	have := io.NewSectionReader(t.f, 0, info.Size())
	if t.done, err = io.Copy(t.hash, ctxReader{ctx, have}); err != nil {
		return err
	}
	t.resumed = t.done > 0
	return nil
}

// restart drops all bytes.
func (t *transfer) restart() error {
	t.hash.Reset()
	t.done, t.resumed = 0, false
	return t.f.Truncate(0)
}

// verify returns an error unless the file has the whole blob.
func (t *transfer) verify() error {
	if found := digest.NewDigest(t.d.Digest.Algorithm(), t.hash); found != t.d.Digest {
		return &DigestMismatchError{What: t.what, Expected: t.d.Digest, Found: found}
	}
	if t.done != t.d.Size {
		return &SizeError{What: t.what, Found: t.done, Allowed: t.d.Size, Exact: true}
	}
	return nil
}

// download fetches a blob into f and verifies it. It goes on behind what f has, and a broken
// connection is resumed where it broke. If the whole has another digest then, it begins again.
func (s *registry) download(ctx context.Context, what string, d v1.Descriptor, f *os.File,
	progress func(done int64),
) error {
	t := &transfer{what: what, d: d, f: f, hash: d.Digest.Algorithm().Hash()}
	if err := t.takeUp(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for failed := 0; ; {
		before := t.done
		var err error
		if !t.resumed || t.done < d.Size {
			err = s.fetchRest(ctx, t, progress)
		}
		if err == nil {
			if err = t.verify(); err == nil || !t.resumed {
				return err
			}
			err = errors.Join(err, t.restart())
		}
		var size *SizeError
		var missing *NotFoundError
		var access *AccessError
		tooLong := errors.As(err, &size)
		if ctx.Err() != nil || tooLong && !t.resumed || errors.As(err, &missing) ||
			errors.As(err, &access) {
			return err
		}
		if tooLong { // what the file had may be of something else
			err = errors.Join(err, t.restart())
		}
		if t.done-before >= progressed {
			failed = 0
		} else {
			failed++
		}
		if failed == attempts {
			return fmt.Errorf("%s: after %d attempts: %w", what, attempts, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(failed) * time.Second):
		}
	}
}

// fetchRest fetches the bytes behind those that t has, or all if the registry sends all.
func (s *registry) fetchRest(ctx context.Context, t *transfer, progress func(int64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(stall, func() {
		cancel(fmt.Errorf("the registry sent nothing for %s", stall))
	})
	defer watchdog.Stop()
	header := http.Header{}
	if t.done > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(t.done, 10)+"-")
	}
	resp, err := s.do(ctx, http.MethodGet, "blobs", t.d.Digest.String(), header, http.StatusOK,
		http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch content := resp.Header.Get("Content-Range"); {
	case resp.StatusCode == http.StatusOK && t.done > 0: // the registry ignores Range
		if err := t.restart(); err != nil {
			return err
		}
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusPartialContent && isRest(content, t.done, t.d.Size):
		t.resumed = t.done > 0
	default:
		err := fmt.Errorf("%s: found status %d and Content-Range %q; allowed: bytes %d-%d/%d", t.what,
			resp.StatusCode, shorten(content), t.done, t.d.Size-1, t.d.Size)
		return errors.Join(err, t.restart())
	}
	return t.copy(ctx, resp.Body, watchdog, progress)
}

// isRest reports whether a Content-Range (RFC 9110, section 14.4) names all bytes from an
// offset on.
func isRest(content string, from, size int64) bool {
	rest, ok := strings.CutPrefix(content, fmt.Sprintf("bytes %d-%d/", from, size-1))
	return ok && (rest == "*" || rest == strconv.FormatInt(size, 10))
}

// copy adds the bytes of a response.
func (t *transfer) copy(ctx context.Context, body io.Reader, watchdog *time.Timer,
	progress func(int64),
) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		watchdog.Reset(stall)
		if found := t.done + int64(n); found > t.d.Size {
			return &SizeError{What: t.what, Found: found, Allowed: t.d.Size, Exact: true}
		}
		if _, werr := t.f.WriteAt(buf[:n], t.done); werr != nil {
			return fmt.Errorf("%s: %w", t.what, werr)
		}
		_, _ = t.hash.Write(buf[:n]) // never fails
		t.done += int64(n)
		progress(t.done)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return fmt.Errorf("%s: %w", t.what, err)
		}
	}
}

// patient waits as long as a registry asks for by Retry-After (RFC 9110, section 10.2.3), and asks
// again.
type patient struct{ next http.RoundTripper }

// patience bounds the waits of one request. A pull that fails is tried again under the back-off of
// its container.
const patience = 30 * time.Second

// RoundTrip is part of http.RoundTripper.
func (p *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	for left := patience; ; {
		resp, err := p.next.RoundTrip(req)
		if err != nil || req.Body != nil || resp.StatusCode != http.StatusTooManyRequests &&
			resp.StatusCode != http.StatusServiceUnavailable {
			return resp, err
		}
		wait, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now())
		if !ok || wait > left {
			return resp, nil
		}
		left -= wait
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // the connection is used again
		resp.Body.Close()
		select {
		case <-req.Context().Done():
			return nil, req.Context().Err()
		case <-time.After(wait):
		}
	}
}

// retryAfter returns the time that a header asks for, at least a second.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.ParseUint(value, 10, 16); err == nil {
		return max(time.Duration(seconds)*time.Second, time.Second), true
	}
	at, err := http.ParseTime(value)
	return max(at.Sub(now), time.Second), err == nil
}
