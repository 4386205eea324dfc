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

// pullSecrets returns the Secrets with which the image of a container is pulled, packed.
func (s environmentStage) pullSecrets(c *Container) (string, error) {
	secrets := environment.PullSecrets(c.Bundle.Spec.Image)
	if err := s.readable(c, "image.pullSecrets", secrets); err != nil {
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
