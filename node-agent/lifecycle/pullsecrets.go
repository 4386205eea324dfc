// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"encoding/json"
	"fmt"

	"github.com/berth-run/berth/api/oci/environment"
)

// PullSecret is a Secret of imagePullSecrets.
type PullSecret struct {
	// Name is NAMESPACE/NAME.
	Name string
	// Data of the Secret; nil if it is not there.
	Data map[string]string
}

// PullSecrets returns the Secrets of the request, in the order of imagePullSecrets.
func (r PullRequest) PullSecrets() ([]PullSecret, error) {
	if r.Secrets == "" {
		return nil, nil
	}
	var out []PullSecret
	if err := json.Unmarshal([]byte(r.Secrets), &out); err != nil {
		return nil, fmt.Errorf("image.pullSecrets: %w", err)
	}
	return out, nil
}

// packSecrets returns Secrets as text for PullRequest.Secrets.
func packSecrets(secrets []PullSecret) (string, error) {
	text, err := json.Marshal(secrets)
	return string(text), err
}

// pullSecrets returns the Secrets with which images of a container are pulled, packed; "" for no
// names. path is the field that has the names.
func (s environmentStage) pullSecrets(c *Container, path string, names []string) (string, error) {
	if len(names) == 0 {
		return "", nil
	}
	var secrets []environment.Object
	for _, name := range names {
		secrets = append(secrets, environment.Object{Kind: environment.KindSecret, Name: name})
	}
	if err := s.readable(c, path, secrets); err != nil {
		return "", err
	}
	namespace := c.Bundle.Owner().Namespace
	var out []PullSecret
	for _, secret := range secrets {
		data, _ := s.objects.Data(namespace, secret)
		out = append(out, PullSecret{Name: namespace + "/" + secret.Name, Data: data})
	}
	return packSecrets(out)
}
