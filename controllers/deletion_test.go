// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/deletion"
	"github.com/berth-run/berth/internal/needs"
)

var (
	webhookConfiguration = &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "berth-controller"},
	}
	webhookSecret = &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: "berth-controller-webhook"},
	}
)

// readWebhook returns the objects of config/webhook.
func readWebhook() (*admissionv1.ValidatingWebhookConfiguration, *corev1.Service, *corev1.Secret,
	error,
) {
	document, err := os.ReadFile(filepath.Join("..", "config", "webhook", "webhook.yaml"))
	if err != nil {
		return nil, nil, nil, err
	}
	parts := strings.Split(string(document), "\n---\n")
	configuration, service, secret := &admissionv1.ValidatingWebhookConfiguration{}, &corev1.Service{},
		&corev1.Secret{}
	return configuration, service, secret, errors.Join(
		yaml.UnmarshalStrict([]byte(parts[0]), configuration),
		yaml.UnmarshalStrict([]byte(parts[1]), service),
		yaml.UnmarshalStrict([]byte(parts[2]), secret),
	)
}

// installWebhook creates the objects of config/webhook, with a port of this host in place of the
// Service.
func installWebhook(ctx context.Context) (*deletion.Options, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return nil, err
	}
	configuration, _, secret, err := readWebhook()
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("https://127.0.0.1:%d", port)
	configuration.Webhooks[0].ClientConfig = admissionv1.WebhookClientConfig{URL: &url}
	// Under load, three seconds are not long.
	configuration.Webhooks[0].TimeoutSeconds = ptr.To[int32](30)
	if err := errors.Join(admin.Create(ctx, configuration), admin.Create(ctx, secret)); err != nil {
		return nil, err
	}
	return &deletion.Options{Port: port, Namespace: "berth-system", Interval: time.Second}, nil
}

// warnings collects the API server's warnings.
type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *warnings) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.text = nil }()
	return strings.Join(w.text, "\n")
}

// warned returns a client and what the API server warns it of.
func warned(t *testing.T) (client.Client, *warnings) {
	t.Helper()
	w := &warnings{}
	cfg := rest.CopyConfig(adminConfig)
	cfg.WarningHandler = w
	c, err := client.New(cfg, client.Options{Scheme: admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return c, w
}

// webhookWorks waits until the API server calls the webhook, which takes effect some time after it
// was configured.
func webhookWorks(t *testing.T) {
	t.Helper()
	ns := namespace(t)
	eventually(t, func() error {
		c := sample(ns, "probe", withFinalizer)
		create(t, c)
		defer letGo(t, c)
		if err := admin.Delete(t.Context(), c, client.GracePeriodSeconds(7)); err != nil {
			return err
		}
		return graceIs(t, c, 7)
	})
}

// withFinalizer keeps a Container that was never dispatched.
func withFinalizer(c *v1alpha1.Container) { c.Finalizers = []string{"test.berth.run/kept"} }

func letGo(t *testing.T, c *v1alpha1.Container) {
	t.Helper()
	patch := client.RawPatch("application/merge-patch+json",
		[]byte(`{"metadata":{"finalizers":null}}`))
	if err := admin.Patch(t.Context(), c.DeepCopy(), patch); err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

func graceIs(t *testing.T, c *v1alpha1.Container, want int64) error {
	t.Helper()
	now, err := read(t, c)
	if err == nil && *now.Spec.TerminationGracePeriodSeconds != want {
		err = fmt.Errorf("%s: the grace period is %d; want %d", c.Name,
			*now.Spec.TerminationGracePeriodSeconds, want)
	}
	return err
}

// TestGracePeriodOfADeletion: the grace period of `kubectl delete` reaches the Container, before it
// is deleted and while it is being deleted.
func TestGracePeriodOfADeletion(t *testing.T) {
	webhookWorks(t)
	ns := namespace(t)
	user, warnings := warned(t)
	const without = -1 << 40 // a deletion that says nothing of it
	cases := map[string]struct {
		grace []int64 // of one deletion after another
		want  int64
	}{
		"force":         {[]int64{0}, 0},
		"now":           {[]int64{1}, 1},
		"shorter":       {[]int64{5}, 5},
		"longer":        {[]int64{600}, 600},
		"own":           {[]int64{60}, 60},
		"negative":      {[]int64{-2}, 1},
		"again-shorter": {[]int64{5, 0}, 0},
		"again-longer":  {[]int64{5, 90}, 5},
		"afterwards":    {[]int64{without, 0}, 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			container := sample(ns, name, withFinalizer, func(c *v1alpha1.Container) {
				c.Spec.TerminationGracePeriodSeconds = ptr.To[int64](60)
			})
			create(t, container)
			defer letGo(t, container)
			for _, seconds := range c.grace {
				options := []client.DeleteOption{client.GracePeriodSeconds(seconds)}
				if seconds == without {
					options = nil
				}
				if err := user.Delete(t.Context(), container, options...); err != nil {
					t.Fatal(err)
				}
			}
			if err := graceIs(t, container, c.want); err != nil {
				t.Error(err)
			}
			if now, err := read(t, container); err != nil || now.DeletionTimestamp == nil {
				t.Errorf("it is not being deleted: %+v, %v", now.ObjectMeta, err)
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		container := sample(ns, "none", withFinalizer)
		create(t, container)
		defer letGo(t, container)
		err := user.Delete(t.Context(), container, client.DryRunAll, client.GracePeriodSeconds(0))
		if err != nil {
			t.Fatal(err)
		}
		if now, err := read(t, container); err != nil || now.Generation != container.Generation {
			t.Errorf("a dry run has written (%v): generation %d", err, now.Generation)
		}
		if err := user.Delete(t.Context(), container); err != nil {
			t.Fatal(err)
		}
		if err := graceIs(t, container, 30); err != nil {
			t.Error(err)
		}
	})
	t.Run("collection", func(t *testing.T) {
		var all []*v1alpha1.Container
		for i := range 3 {
			all = append(all, sample(ns, fmt.Sprintf("of-many-%d", i), withFinalizer))
			create(t, all[i])
			defer letGo(t, all[i])
		}
		err := user.DeleteAllOf(t.Context(), &v1alpha1.Container{}, client.InNamespace(ns),
			client.GracePeriodSeconds(2))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range all {
			if err := graceIs(t, c, 2); err != nil {
				t.Error(err)
			}
		}
	})
	if text := warnings.take(); text != "" {
		t.Errorf("warned of %s", text)
	}
	t.Run("resource version", func(t *testing.T) {
		container := sample(ns, "versioned", withFinalizer)
		create(t, container)
		defer letGo(t, container)
		eventually(t, func() error { // the controller writes its status
			now, err := read(t, container)
			if err != nil {
				return err
			}
			return user.Delete(t.Context(), container, client.GracePeriodSeconds(0),
				client.Preconditions{ResourceVersion: &now.ResourceVersion})
		})
		text := warnings.take()
		for _, want := range []string{
			"preconditions.resourceVersion: found",
			"patch container versioned",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("the warning is %q; want %q", text, want)
			}
		}
	})
}

// TestForcedDeletionReachesTheAgent: the OCIBundle has the grace period of the deletion, from the
// first and from a later one.
func TestForcedDeletionReachesTheAgent(t *testing.T) {
	webhookWorks(t)
	hold := make(chan struct{})
	newFakeAgent(t, "node-a", func(a *fakeAgent) { a.hold = hold })
	c := sample(namespace(t), "hello", func(c *v1alpha1.Container) {
		c.Spec.TerminationGracePeriodSeconds = ptr.To[int64](300)
	})
	create(t, c)
	eventuallyHas(t, c, isReady)
	for _, seconds := range []int64{5, 0} {
		if err := admin.Delete(t.Context(), c, client.GracePeriodSeconds(seconds)); err != nil {
			t.Fatal(err)
		}
		eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
			if b.DeletionTimestamp == nil || b.Spec.TerminationGracePeriodSeconds != seconds {
				return fmt.Errorf("the grace period is %d, deleted at %v", b.Spec.TerminationGracePeriodSeconds,
					b.DeletionTimestamp)
			}
			return nil
		})
	}
	close(hold)
	gone(t, c)
}

// TestDeletionWithoutTheWebhook: a deletion goes on where nobody answers the API server.
func TestDeletionWithoutTheWebhook(t *testing.T) {
	webhookWorks(t)
	var was string
	point := func(to string) {
		edit(t, webhookConfiguration.DeepCopy(), func(w *admissionv1.ValidatingWebhookConfiguration) {
			was, w.Webhooks[0].ClientConfig.URL = *w.Webhooks[0].ClientConfig.URL, &to
		})
	}
	point("https://127.0.0.1:1")
	back := was
	ns := namespace(t)
	eventually(t, func() error { // the API server goes by the new port some time after
		c := sample(ns, "away", withFinalizer)
		create(t, c)
		defer letGo(t, c)
		if err := admin.Delete(t.Context(), c, client.GracePeriodSeconds(0)); err != nil {
			t.Error(err)
		}
		now, err := read(t, c)
		if err != nil || now.DeletionTimestamp == nil {
			t.Errorf("it is not being deleted (%v)", err)
		}
		return graceIs(t, c, 30)
	})
	point(back)
	webhookWorks(t)
}

// TestWebhookOnlyAnswersTheAPIServer: whoever reaches the port and does not know the path changes
// nothing.
func TestWebhookOnlyAnswersTheAPIServer(t *testing.T) {
	webhookWorks(t)
	c := sample(namespace(t), "target", withFinalizer)
	create(t, c)
	defer letGo(t, c)
	w := webhookConfiguration.DeepCopy()
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(w), w); err != nil {
		t.Fatal(err)
	}
	review := fmt.Appendf(nil,
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"DELETE",
"namespace":%q,"oldObject":{"metadata":{"name":%q,"uid":%q}},"options":{"gracePeriodSeconds":0}}}`, c.Namespace, c.Name, c.UID)
	ask := func(url string) int {
		t.Helper()
		anyone := &http.Client{
			Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		}
		answer, err := anyone.Post(url, "application/json", bytes.NewReader(review))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		return answer.StatusCode
	}
	right := *w.Webhooks[0].ClientConfig.URL
	for _, url := range []string{
		right[:strings.LastIndex(right, "/")+1], right[:len(right)-1] + "!",
		right + "/x",
	} {
		if code := ask(url); code != http.StatusNotFound {
			t.Errorf("%s answers %d", url, code)
		}
	}
	if err := graceIs(t, c, 30); err != nil {
		t.Error(err)
	}
	// The review is one that would be followed.
	if code := ask(right); code != http.StatusOK {
		t.Errorf("the right path answers %d", code)
	}
	if err := graceIs(t, c, 0); err != nil {
		t.Error(err)
	}
}

// TestWebhookCertificateIsReplaced: before it expires, and after somebody has emptied the Secret or
// the caBundle.
func TestWebhookCertificateIsReplaced(t *testing.T) {
	webhookWorks(t)
	secret := webhookSecret.DeepCopy()
	serialOf := func(chain []byte) string {
		certs, err := certutil.ParseCertsPEM(chain)
		if err != nil {
			return ""
		}
		return certs[0].SerialNumber.String()
	}
	serial := func() string {
		t.Helper()
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); err != nil {
			t.Fatal(err)
		}
		return serialOf(secret.Data["tls.crt"])
	}
	replaced := func(serialBefore string) {
		t.Helper()
		eventually(t, func() error {
			if now := serial(); now == serialBefore || now == "" {
				return errors.New("the certificate is still the same")
			}
			return nil
		})
		webhookWorks(t)
	}
	first, token := serial(), string(secret.Data["token"])
	var old string
	edit(t, secret, func(s *corev1.Secret) {
		options := certutil.SelfSignedCertKeyOptions{Host: "127.0.0.1", MaxAge: 30 * 24 * time.Hour}
		chain, key, err := certutil.GenerateSelfSignedCertKeyWithOptions(options)
		if err != nil {
			t.Fatal(err)
		}
		s.Data["tls.crt"], s.Data["tls.key"], s.Data["ca.crt"] = chain, key, chain
		old = serialOf(chain)
	})
	replaced(old)
	if string(secret.Data["token"]) != token {
		t.Error("the path has changed with the certificate: other replicas would refuse it until they look again")
	}
	// Other replicas may still serve the certificate before.
	cas, err := certutil.ParseCertsPEM(secret.Data["ca.crt"])
	if err != nil || len(cas) != 2 {
		t.Errorf("ca.crt has %d authorities (%v); want the new one and the one before", len(cas), err)
	}
	edit(t, secret, func(s *corev1.Secret) { s.Data = nil })
	replaced(first)

	edit(t, webhookConfiguration.DeepCopy(), func(w *admissionv1.ValidatingWebhookConfiguration) {
		w.Webhooks[0].ClientConfig.CABundle = nil
	})
	eventually(t, func() error {
		w := webhookConfiguration.DeepCopy()
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(w), w); err != nil {
			return err
		}
		if !bytes.Equal(w.Webhooks[0].ClientConfig.CABundle, secret.Data["ca.crt"]) {
			return errors.New("caBundle is not the Secret's")
		}
		return nil
	})
	webhookWorks(t)
}

// TestWebhookBehindItsService: the API server calls the webhook as config/webhook has it in a
// cluster, by the Service.
func TestWebhookBehindItsService(t *testing.T) {
	address := loopbackAddress(t)
	webhookWorks(t)
	configuration, service, _, err := readWebhook()
	if err != nil {
		t.Fatal(err)
	}
	var back admissionv1.WebhookClientConfig
	point := func(to admissionv1.WebhookClientConfig) {
		edit(t, webhookConfiguration.DeepCopy(), func(w *admissionv1.ValidatingWebhookConfiguration) {
			back = *w.Webhooks[0].ClientConfig.DeepCopy()
			w.Webhooks[0].ClientConfig = to
		})
	}
	certified := func(host string) {
		t.Helper()
		eventually(t, func() error {
			secret := webhookSecret.DeepCopy()
			if err := admin.Get(t.Context(), client.ObjectKeyFromObject(secret), secret); err != nil {
				return err
			}
			certs, err := certutil.ParseCertsPEM(secret.Data["tls.crt"])
			if err != nil {
				return err
			}
			return certs[0].VerifyHostname(host)
		})
	}
	point(configuration.Webhooks[0].ClientConfig)
	url := *back.URL
	port, err := strconv.ParseInt(strings.Split(strings.TrimPrefix(url, "https://127.0.0.1:"), "/")[0],
		10, 32)
	if err != nil {
		t.Fatal(err)
	}
	create(t, service)
	create(t, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: service.Namespace, Name: service.Name,
			Labels: map[string]string{discoveryv1.LabelServiceName: service.Name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{address}}},
		Ports: []discoveryv1.EndpointPort{{
			Name: &service.Spec.Ports[0].Name,
			Port: ptr.To(int32(port)),
		}},
	})
	// From then on the certificate is not valid for the earlier address.
	certified("berth-controller.berth-system.svc")
	webhookWorks(t)

	point(admissionv1.WebhookClientConfig{URL: &url})
	certified("127.0.0.1")
	webhookWorks(t)
}

// loopbackAddress gives the loopback device an address that an EndpointSlice may have, as 127.0.0.1
// is not, and removes it when the test ends. It is of TEST-NET-2 (RFC 5737), which nobody routes.
func loopbackAddress(t *testing.T) string {
	t.Helper()
	needs.Root(t)
	ip := needs.Program(t, "ip")
	address := fmt.Sprintf("198.51.100.%d", 1+os.Getpid()%254)
	change := func(verb string) {
		t.Helper()
		out, err := exec.Command(ip, "address", verb, address+"/32", "dev", "lo").CombinedOutput()
		if err != nil {
			t.Fatalf("ip address %s: %v: %s", verb, err, out)
		}
	}
	change("add")
	t.Cleanup(func() { change("delete") })
	return address
}
