// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// client reads from the API server as the admin: just enough to poll.
type client struct {
	server string
	http   *http.Client
}

// object is the part of any object with conditions that polling needs.
type object struct {
	Metadata struct{ Name string }
	Status   struct {
		Conditions []struct{ Type, Status, Reason, Message string }
	}
}

// is reports whether the condition of that type is True.
func (o object) is(conditionType string) bool {
	for _, c := range o.Status.Conditions {
		if c.Type == conditionType {
			return c.Status == "True"
		}
	}
	return false
}

func (o object) conditions() string {
	var all []string
	for _, c := range o.Status.Conditions {
		all = append(all, fmt.Sprintf("%s=%s (%s: %s)", c.Type, c.Status, c.Reason, c.Message))
	}
	if all == nil {
		return "none yet"
	}
	return strings.Join(all, ", ")
}

func newClient(ca *authority, server string) (*client, error) {
	pair, err := tls.LoadX509KeyPair(ca.file("admin.crt"), ca.file("admin.key"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	return &client{server: server, http: &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{
			RootCAs:      roots,
			Certificates: []tls.Certificate{pair},
		}},
	}}, nil
}

// get reads path into out, unless out is nil.
func (c *client) get(ctx context.Context, path string, out any) error {
	return fetch(ctx, c.http, c.server+path, out)
}

// probe is nil if url answers 200.
func probe(ctx context.Context, url string) error {
	return fetch(ctx, &http.Client{Timeout: 5 * time.Second}, url, nil)
}

func fetch(ctx context.Context, h *http.Client, url string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := h.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	const most = 16 << 20
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		text := strings.TrimSpace(string(body))
		return fmt.Errorf("GET %s: %s: %.300s", url, resp.Status, text)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(body, out)
}
