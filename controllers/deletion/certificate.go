// SPDX-License-Identifier: Apache-2.0

package deletion

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Names of the objects in config/webhook.
const (
	configurationName = "berth-controller"
	secretName        = "berth-controller-webhook"
)

// Keys of the Secret.
const (
	keyCA    = "ca.crt" // the certificate's authority and, after a rotation, the one before it
	keyToken = "token"  // the last element of the webhook's path
)

// pathPrefix and the Secret's token are the path of the webhook.
const pathPrefix = "/delete-container/"

// A certificate is replaced when less than renewBefore of its lifetime is left.
const (
	lifetime    = 365 * 24 * time.Hour
	renewBefore = lifetime / 3
)

// defaultInterval is the default of Options.Interval.
const defaultInterval = 15 * time.Second

// +kubebuilder:rbac:groups="",resources=secrets,resourceNames=berth-controller-webhook,namespace=berth-system,verbs=get;update
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=validatingwebhookconfigurations,resourceNames=berth-controller,verbs=get;patch

// certificate keeps the webhook's serving certificate, its authority and the token of its path in a
// Secret that all replicas share, and writes authority and path into the
// ValidatingWebhookConfiguration. The key of the authority is discarded after it has signed the one
// certificate. It is a manager's Runnable.
type certificate struct {
	reader    client.Reader
	writer    client.Writer
	namespace string
	interval  time.Duration

	mu     sync.Mutex
	pair   *tls.Certificate
	path   string
	looked bool
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: every replica serves the webhook.
func (*certificate) NeedLeaderElection() bool { return false }

// Start keeps the certificate until ctx ends. Containers do not depend on it: failures are logged
// and tried again.
func (c *certificate) Start(ctx context.Context) error {
	log := ctrl.LoggerFrom(ctx).WithName("deletion-webhook")
	said := ""
	for {
		wait := c.interval
		switch err := c.ensure(ctx); {
		case err == nil:
			said = ""
		case apierrors.IsConflict(err):
			wait = time.Second // another replica was first
		case ctx.Err() == nil:
			if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
				err = fmt.Errorf("%w: apply config/webhook and config/rbac", err)
			}
			if err.Error() != said {
				said = err.Error()
				log.Info("grace periods of deletions are not honoured", "error", said)
			}
		}
		c.mu.Lock()
		c.looked = true
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// ready implements healthz.Checker. A replica is ready once it has tried to get the certificate:
// without one it does all its other work.
func (c *certificate) ready(*http.Request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.looked {
		return errors.New("the certificate of the deletion webhook has not been looked for yet")
	}
	return nil
}

// get implements tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair == nil {
		return nil, errors.New("there is no certificate yet")
	}
	return c.pair, nil
}

// isPath reports whether path is the webhook's.
func (c *certificate) isPath(path string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.path != "" && subtle.ConstantTimeCompare([]byte(path), []byte(c.path)) == 1
}

// ensure brings Secret and configuration up to date, and serves the certificate once the API server
// has been given its authority.
func (c *certificate) ensure(ctx context.Context) error {
	configuration := &admissionv1.ValidatingWebhookConfiguration{}
	if err := c.reader.Get(ctx, client.ObjectKey{Name: configurationName}, configuration); err != nil {
		return fmt.Errorf("read the ValidatingWebhookConfiguration: %w", err)
	}
	host, err := hostOf(configuration)
	if err != nil {
		return fmt.Errorf("ValidatingWebhookConfiguration %s: %w", configurationName, err)
	}
	secret := &corev1.Secret{}
	if err := c.reader.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: secretName},
		secret); err != nil {
		return fmt.Errorf("read the Secret: %w", err)
	}
	pair, err := usable(secret, host, time.Now())
	if err != nil {
		ctrl.LoggerFrom(ctx).Info("issuing a certificate for the deletion webhook",
			"reason", err.Error(), "host", host)
		if err := issue(secret, host); err != nil {
			return fmt.Errorf("issue a certificate: %w", err)
		}
		// Of several replicas, one succeeds; the others get a conflict, and then read its
		// certificate.
		if err := c.writer.Update(ctx, secret, client.FieldOwner(fieldOwner)); err != nil {
			return fmt.Errorf("write the Secret: %w", err)
		}
		if pair, err = usable(secret, host, time.Now()); err != nil {
			return fmt.Errorf("the new certificate: %w", err)
		}
	}
	path := pathPrefix + string(secret.Data[keyToken])
	if err := c.configure(ctx, configuration, secret.Data[keyCA], path); err != nil {
		return fmt.Errorf("write the ValidatingWebhookConfiguration: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pair, c.path = pair, path
	return nil
}

// configure writes authority and path into the configuration.
func (c *certificate) configure(
	ctx context.Context, have *admissionv1.ValidatingWebhookConfiguration, ca []byte, path string,
) error {
	want := have.DeepCopy()
	to := &want.Webhooks[0].ClientConfig
	to.CABundle = ca
	if to.Service != nil {
		to.Service.Path = &path
	} else {
		u, err := url.Parse(*to.URL)
		if err != nil {
			return err
		}
		u.Path = path
		to.URL = ptr.To(u.String())
	}
	if equality.Semantic.DeepEqual(have, want) {
		return nil
	}
	patch := client.StrategicMergeFrom(have, client.MergeFromWithOptimisticLock{})
	return c.writer.Patch(ctx, want, patch, client.FieldOwner(fieldOwner))
}

// hostOf returns the name by which the API server calls the webhook.
func hostOf(configuration *admissionv1.ValidatingWebhookConfiguration) (string, error) {
	if n := len(configuration.Webhooks); n != 1 {
		return "", fmt.Errorf("webhooks: found %d; allowed: 1", n)
	}
	to := configuration.Webhooks[0].ClientConfig
	if to.Service != nil {
		return to.Service.Name + "." + to.Service.Namespace + ".svc", nil
	}
	u, err := url.Parse(ptr.Deref(to.URL, ""))
	if err != nil {
		return "", fmt.Errorf("webhooks[0].clientConfig.url: %w", err)
	}
	return u.Hostname(), nil
}

// usable returns the Secret's certificate, or why a new one is needed.
func usable(secret *corev1.Secret, host string, now time.Time) (*tls.Certificate, error) {
	if len(secret.Data[corev1.TLSCertKey]) == 0 {
		return nil, errors.New("the Secret has none")
	}
	pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, err
	}
	if len(secret.Data[keyToken]) == 0 {
		return nil, errors.New("the Secret has no token")
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(secret.Data[keyCA])
	options := x509.VerifyOptions{DNSName: host, Roots: roots, CurrentTime: now}
	if _, err := pair.Leaf.Verify(options); err != nil {
		return nil, err
	}
	if left := pair.Leaf.NotAfter.Sub(now); left < renewBefore {
		return nil, fmt.Errorf("it expires in %s", left.Round(time.Second))
	}
	return &pair, nil
}

// issue puts a new certificate into the Secret. The authority of the present one stays beside the
// new one's, since replicas serve the present one until they look at the Secret again.
func issue(secret *corev1.Secret, host string) error {
	options := certutil.SelfSignedCertKeyOptions{Host: host, MaxAge: lifetime}
	chain, key, err := certutil.GenerateSelfSignedCertKeyWithOptions(options)
	if err != nil {
		return err
	}
	_, ca := pem.Decode(chain) // the certificate is the first of the chain, its authority the second
	bundle := bytes.Clone(ca)
	if _, previous := pem.Decode(secret.Data[corev1.TLSCertKey]); len(previous) > 0 {
		if _, err := certutil.ParseCertsPEM(previous); err == nil {
			bundle = append(bundle, previous...)
		}
	}
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	secret.Data[keyCA] = bundle
	secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey] = chain, key
	if len(secret.Data[keyToken]) == 0 {
		// A path of a Service holds lower case alone.
		secret.Data[keyToken] = []byte(strings.ToLower(rand.Text()))
	}
	return nil
}
