// SPDX-License-Identifier: Apache-2.0

package deletion

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/berth-run/berth/api/v1alpha1"
)

// fieldOwner is the name under which the webhook owns fields.
const fieldOwner = "berth-controller"

// defaultGrace is the CRD's default of spec.terminationGracePeriodSeconds.
const defaultGrace = 30

// Options are the settings of the webhook.
type Options struct {
	// Host and Port are where it is served; an empty host is every address.
	Host string
	Port int
	// Namespace is the namespace of the certificate's Secret.
	Namespace string
	// Interval is the time between two looks at Secret and ValidatingWebhookConfiguration, which
	// others can change; 0 is 15 s.
	Interval time.Duration
}

// SetupWithManager adds the server of the webhook, its certificate, and a readiness check.
func SetupWithManager(mgr ctrl.Manager, o Options) error {
	cert := &certificate{
		reader: mgr.GetAPIReader(), writer: mgr.GetClient(), namespace: o.Namespace,
		interval: cmp.Or(o.Interval, defaultInterval),
	}
	server := webhook.NewServer(webhook.Options{
		Host: o.Host,
		Port: o.Port,
		TLSOpts: []func(*tls.Config){func(c *tls.Config) {
			c.MinVersion = tls.VersionTLS13
			c.GetCertificate = cert.get
		}},
	})
	server.Register(pathPrefix, &guard{cert: cert, next: &admission.Webhook{
		Handler: &handler{client: mgr.GetClient(), live: mgr.GetAPIReader()},
	}})
	return errors.Join(mgr.Add(server), mgr.Add(cert), mgr.AddReadyzCheck("deletion-webhook",
		cert.ready))
}

// guard lets only the API server through: nobody else knows the path. Without it, whoever reaches
// the port could change the grace period of any Container.
type guard struct {
	cert *certificate
	next http.Handler
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.cert.isPath(r.URL.Path) {
		http.NotFound(w, r)
		return
	}
	g.next.ServeHTTP(w, r)
}

// handler answers the API server before it deletes a Container.
type handler struct {
	client client.Writer
	live   client.Reader // the API server itself
}

// Handle writes the grace period that a deletion is given into its Container. It always allows the
// deletion; if it cannot write, a warning says so.
func (h *handler) Handle(ctx context.Context, r admission.Request) admission.Response {
	allowed := admission.Allowed("")
	if ptr.Deref(r.DryRun, false) {
		return allowed
	}
	// The request for the deletion of a collection has no name.
	c := metav1.PartialObjectMetadata{}
	err := json.Unmarshal(r.OldObject.Raw, &c)
	if err == nil {
		err = h.honour(ctx, r, &c)
	}
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "cannot honour the grace period of a deletion",
			"namespace", r.Namespace, "container", c.Name)
		return allowed.WithWarnings(fmt.Sprintf("the grace period of this deletion does not reach "+
			"Container %s: %v; to end it sooner: "+
			`kubectl -n %s patch container %s --type=merge -p '{"spec":{"terminationGracePeriodSeconds":0}}'`,
			c.Name, err, r.Namespace, c.Name))
	}
	return allowed
}

// honour writes the grace period of the request into Container c.
func (h *handler) honour(
	ctx context.Context, r admission.Request, c *metav1.PartialObjectMetadata,
) error {
	options := metav1.DeleteOptions{}
	if err := json.Unmarshal(r.Options.Raw, &options); err != nil {
		return fmt.Errorf("request.options: %w", err)
	}
	seconds := options.GracePeriodSeconds
	switch {
	case seconds == nil:
		return nil
	case *seconds < 0:
		seconds = ptr.To[int64](1) // as the API server does for pods
	}
	if p := options.Preconditions; p != nil && p.ResourceVersion != nil {
		// The write would change the version, and so make the deletion fail.
		return fmt.Errorf(
			"preconditions.resourceVersion: found %q; allowed: none, or no gracePeriodSeconds",
			*p.ResourceVersion)
	}
	return h.setGrace(ctx, client.ObjectKey{Namespace: r.Namespace, Name: c.Name}, c.UID, *seconds)
}

// setGrace sets the grace period of a Container. As with pods, one that is being deleted takes only
// a shorter one.
func (h *handler) setGrace(
	ctx context.Context, key client.ObjectKey, uid types.UID, seconds int64,
) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		c := &v1alpha1.Container{}
		err := h.live.Get(ctx, key, c)
		if apierrors.IsNotFound(err) || err == nil && c.UID != uid {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the Container: %w", err)
		}
		own := ptr.Deref(c.Spec.TerminationGracePeriodSeconds, defaultGrace)
		if seconds == own || c.DeletionTimestamp != nil && seconds > own {
			return nil
		}
		before := c.DeepCopy()
		c.Spec.TerminationGracePeriodSeconds = &seconds
		patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
		return client.IgnoreNotFound(h.client.Patch(ctx, c, patch, client.FieldOwner(fieldOwner)))
	})
}
