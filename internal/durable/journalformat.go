// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
)

// Kinds of entries. An entry is the length of its body and the CRC-32C of it (32 bits each, little
// endian), then the body: a byte for the kind, 16 bits for the length of the path, the path, the
// content.
const (
	kindHeader  = 'H'
	kindFile    = 'F'
	kindRemoved = 'R'

	frameSize  = 8
	prefixSize = 3
	maxBody    = 64 << 20
)

// stamp identifies one content of a file.
type stamp struct {
	size int64
	sum  uint32
}

// entry is a file's content in the journal.
type entry struct {
	stamp
	removed bool
	offset  int64 // of the content
}

// header is the first entry of a journal, as JSON.
type header struct {
	Version int `json:"version"`
	// Boot is the boot (random(4), boot_id) in which the journal was written.
	Boot string `json:"boot"`
}

func checksum(data []byte) uint32 { return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) }

func stampOf(data []byte) stamp { return stamp{int64(len(data)), checksum(data)} }

func encode(kind byte, path string, data []byte) ([]byte, error) {
	if len(path) > math.MaxUint16 || len(data) > maxBody-prefixSize-len(path) {
		return nil, fmt.Errorf("journal: found %d bytes at a path of %d; allowed: %d in all", len(data),
			len(path), maxBody)
	}
	b := make([]byte, frameSize, frameSize+prefixSize+len(path)+len(data))
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	b = append(append(b, path...), data...)
	binary.LittleEndian.PutUint32(b, uint32(len(b)-frameSize))
	binary.LittleEndian.PutUint32(b[4:], checksum(b[frameSize:]))
	return b, nil
}

func entrySize(name string, size int64) int64 {
	return frameSize + prefixSize + int64(len(name)) + size
}

// scan reads a journal up to its end, or to an entry that was cut off, and returns the last entry
// of each file.
func scan(f *os.File) (head header, held map[string]entry, end int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return header{}, nil, 0, err
	}
	held = map[string]entry{}
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		var frame [frameSize]byte
		if _, err := io.ReadFull(r, frame[:]); errors.Is(err, io.EOF) ||
			errors.Is(err, io.ErrUnexpectedEOF) {
			break
		} else if err != nil {
			return header{}, nil, 0, err
		}
		size := int64(binary.LittleEndian.Uint32(frame[:]))
		if size < prefixSize || size > maxBody || size > info.Size()-end-frameSize {
			break
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return header{}, nil, 0, err
		}
		name := prefixSize + int64(binary.LittleEndian.Uint16(body[1:]))
		if checksum(body) != binary.LittleEndian.Uint32(frame[4:]) || name > size {
			break
		}
		path, data := string(body[prefixSize:name]), body[name:]
		switch {
		case end == 0 && body[0] != kindHeader, end > 0 && body[0] != kindFile && body[0] != kindRemoved:
			return header{}, nil, 0, fmt.Errorf("found an entry of the kind %q at byte %d", body[0], end)
		case body[0] == kindHeader:
			if err := json.Unmarshal(data, &head); err != nil {
				return header{}, nil, 0, err
			}
			if head.Version != journalVersion {
				return header{}, nil, 0, fmt.Errorf("found version %d; allowed: %d", head.Version,
					journalVersion)
			}
		case !filepath.IsLocal(path):
			return header{}, nil, 0, fmt.Errorf("found the path %q; allowed: one below the directory", path)
		default:
			held[path] = entry{stampOf(data), body[0] == kindRemoved, end + frameSize + name}
		}
		end += frameSize + size
	}
	if end == 0 {
		return header{}, nil, 0,
			errors.New("found no header; if the file is removed, the files that it stands for are taken as they are")
	}
	return head, held, end, nil
}
