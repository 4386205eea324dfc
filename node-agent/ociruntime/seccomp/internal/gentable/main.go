// SPDX-License-Identifier: Apache-2.0

// Command gentable writes the system call table of package seccomp.
//
// The numbers come from the zsysnum files of golang.org/x/sys/unix (which are made
// from the kernel's own headers), found through the module cache. What these files have not
// (the x32, n32, s390 and parisc ABIs, and Arm's private calls) comes from the columns of
// libseccomp's src/syscalls.csv: numbers of the kernel's ABI, no code. From number 424 on all
// ABIs share one numbering, so the newest calls are known for them too.
//
// Usage, in the directory of package seccomp, with Debian 12's `apt-get source libseccomp` unpacked
// (and its patches applied, which bring the file to Linux 6.7):
//
//	go run ./internal/gentable -csv libseccomp-2.5.4/src/syscalls.csv >table.go.new
//	mv table.go.new table.go
package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"flag"
	"fmt"
	"go/format"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// column is one numbering of system calls.
type column struct {
	name string // of the constant in the table: "X8664"
	sys  string // GOARCH of the zsysnum file, "" for none
	csv  string // column of syscalls.csv, "" for none
	base int    // what the csv's numbers are relative to
}

// columns are in the order of the col* constants of arch.go.
var columns = []column{
	{"X86_64", "amd64", "x86_64", 0},
	{"X32", "", "x32", 0x40000000},
	{"X86", "386", "x86", 0},
	{"ARM", "arm", "arm", 0},
	{"AARCH64", "arm64", "aarch64", 0},
	{"MIPS", "mips", "mips", 4000},
	{"MIPS64", "mips64", "mips64", 5000},
	{"MIPS64N32", "", "mips64n32", 6000},
	{"PARISC", "", "parisc", 0},
	{"PARISC64", "", "parisc64", 0},
	{"PPC", "ppc", "ppc", 0},
	{"PPC64", "ppc64", "ppc64", 0},
	{"RISCV64", "riscv64", "riscv64", 0},
	{"S390", "", "s390", 0},
	{"S390X", "s390x", "s390x", 0},
	{"LOONGARCH64", "loong64", "", 0},
}

// firstUnified is the first number that new system calls have on every ABI (Linux 5.1).
const firstUnified = 424

func main() {
	log.SetFlags(0)
	csvFile := flag.String("csv", "", "libseccomp's src/syscalls.csv")
	flag.Parse()
	if err := run(*csvFile); err != nil {
		log.Fatal("gentable: ", err)
	}
}

func run(csvFile string) error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}} {{.Version}}",
		"golang.org/x/sys").Output()
	if err != nil {
		return fmt.Errorf("finding golang.org/x/sys: %w", err)
	}
	dir, version, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	table := map[string][]int{}
	set := func(name string, col, nr int) error {
		row, ok := table[name]
		if !ok {
			row = slices.Repeat([]int{-1}, len(columns))
			table[name] = row
		}
		if row[col] >= 0 && row[col] != nr {
			return fmt.Errorf("%s on %s: numbers %d and %d", name, columns[col].name, row[col], nr)
		}
		row[col] = nr
		return nil
	}
	for i, c := range columns {
		if c.sys == "" {
			continue
		}
		if err := readSys(filepath.Join(dir, "unix", "zsysnum_linux_"+c.sys+".go"),
			func(name string, nr int) error {
				return set(name, i, nr)
			}); err != nil {
			return err
		}
	}
	if err := readCSV(csvFile, set); err != nil {
		return err
	}
	// The newest calls, for the ABIs that only the csv knows. They start after the
	// csv's own last one, as it also knows which of the older ones an ABI lacks.
	const generic = "riscv64"
	reference := slices.IndexFunc(columns, func(c column) bool { return c.sys == generic })
	newest := 0
	for _, row := range table {
		if x := row[slices.IndexFunc(columns, func(c column) bool { return c.name == "X32" })]; x >= 0 {
			if nr := x - 0x40000000; nr >= firstUnified && nr < 512 && nr > newest {
				newest = nr
			}
		}
	}
	for name, row := range table {
		if row[reference] <= newest {
			continue
		}
		for i, c := range columns {
			if c.sys == "" {
				if err := set(name, i, row[reference]+c.base); err != nil {
					return err
				}
			}
		}
	}
	return write(table, version)
}

var constant = regexp.MustCompile(`^\s*SYS_(\w+)\s*=\s*(\d+)$`)

func readSys(file string, set func(string, int) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		m := constant.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		nr, err := strconv.Atoi(m[2])
		if err != nil {
			return err
		}
		if err := set(strings.ToLower(m[1]), nr); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

func readCSV(file string, set func(string, int, int) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for i, c := range columns {
		at := slices.Index(rows[0], c.csv)
		if c.csv == "" {
			continue
		}
		if at < 0 {
			return fmt.Errorf("%s: no column %s", file, c.csv)
		}
		for _, row := range rows[1:] {
			if row[at] == "PNR" {
				continue
			}
			nr, err := strconv.Atoi(row[at])
			if err != nil {
				return fmt.Errorf("%s: %s: %w", file, row[0], err)
			}
			if err := set(row[0], i, nr+c.base); err != nil {
				// The headers are right where the two differ.
				log.Printf("%s: %v", file, err)
			}
		}
	}
	return nil
}

func write(table map[string][]int, version string) error {
	var b bytes.Buffer
	names := make([]string, 0, len(table))
	for name := range table {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(&b, `// SPDX-License-Identifier: Apache-2.0

// Code generated by internal/gentable from golang.org/x/sys %s; DO NOT EDIT.

package seccomp

// syscallTable has the number of each system call in every column (see arch.go), sorted by
// name; -1 says that the ABI does not have it. It is an array of constants, so that it
// costs nothing at start.
var syscallTable = [...]syscallEntry{
`, version)
	for _, name := range names {
		fmt.Fprintf(&b, "{%q, [columns]int32{", name)
		for i, nr := range table[name] {
			if i > 0 {
				b.WriteString(", ")
			}
			fmt.Fprint(&b, nr)
		}
		b.WriteString("}},\n")
	}
	b.WriteString("}\n")
	src, err := format.Source(b.Bytes())
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(src)
	return err
}
