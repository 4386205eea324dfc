// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"
)

// checkOutput returns an error unless --output is one of the formats, or empty for a table.
func checkOutput(output string, formats ...string) error {
	if output == "" || slices.Contains(formats, output) {
		return nil
	}
	return fmt.Errorf("--output: found %q; allowed: %s, or nothing for a table", output,
		strings.Join(formats, ", "))
}

// print prints an object as json or yaml.
func print(w io.Writer, format string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err == nil && format == "yaml" {
		data, err = yaml.JSONToYAML(data)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, strings.TrimRight(string(data), "\n"))
	return err
}

// newTable begins a table. Flush prints it.
func newTable(w io.Writer, columns ...string) *tabwriter.Writer {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(columns, "\t"))
	return tw
}

// age returns for a table how long ago something was, or "-" if that is not known.
func age(t *metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// joined returns names for a table, or "-" if there are none.
func joined(names []string) string { return cmp.Or(strings.Join(names, ", "), "-") }

// confirm asks whether the listed objects are to be removed, and returns an error unless the answer
// is yes.
func confirm(cmd *cobra.Command, title string, lines []string) error {
	w := cmd.ErrOrStderr()
	fmt.Fprintln(w, title)
	for _, line := range lines {
		fmt.Fprintln(w, "  "+line)
	}
	fmt.Fprint(w, "Continue? [y/N] ")
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if answer = strings.ToLower(strings.TrimSpace(answer)); answer == "y" || answer == "yes" {
		return nil
	}
	return errors.New("nothing is removed: found no confirmation; allowed: y, or --force")
}
