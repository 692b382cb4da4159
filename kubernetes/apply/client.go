// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// requestTimeout bounds one request. An API server that has just started takes long
// for its first ones.
const requestTimeout = 30 * time.Second

func newClient(config *rest.Config) (*client, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1
	config.UserAgent = Manager
	if config.Timeout == 0 {
		config.Timeout = requestTimeout
	}
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.GroupVersion = &schema.GroupVersion{}
	config.ContentType = runtime.ContentTypeJSON
	config.AcceptContentTypes = runtime.ContentTypeJSON
	r, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, err
	}
	return &client{d, r, map[schema.GroupVersion][]metav1.APIResource{}}, nil
}

// unknownKind is that the API server does not serve a kind, perhaps not yet.
type unknownKind struct{ schema.GroupVersionKind }

func (u unknownKind) Error() string {
	return fmt.Sprintf("the API server has no kind %s in %s", u.Kind, u.GroupVersion())
}

// resource asks the API server for the resources of one group and version: of all
// others nothing is needed, not even that they answer.
func (c *client) resource(ctx context.Context, gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	gv := gvk.GroupVersion()
	resources, ok := c.resources[gv]
	if !ok {
		path := "/apis/" + gv.String()
		if gv.Group == "" {
			path = "/api/" + gv.Version
		}
		var list metav1.APIResourceList
		if err := c.rest.Get().AbsPath(path).Do(ctx).Into(&list); err != nil {
			return nil, fmt.Errorf("resources of %s: %w", gv, err)
		}
		resources = list.APIResources
	}
	for _, r := range resources {
		if r.Kind != gvk.Kind || strings.Contains(r.Name, "/") {
			continue
		}
		c.resources[gv] = resources
		client := c.Resource(gv.WithResource(r.Name))
		switch {
		case r.Namespaced && namespace == "":
			return nil, fmt.Errorf("%s is in a namespace, and none is named", gvk.Kind)
		case !r.Namespaced && namespace != "":
			return nil, fmt.Errorf("%s is in no namespace, and %s is named", gvk.Kind, namespace)
		case r.Namespaced:
			return client.Namespace(namespace), nil
		}
		return client, nil
	}
	// Asked for anew the next time.
	delete(c.resources, gv)
	return nil, unknownKind{gvk}
}
