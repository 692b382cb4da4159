// SPDX-License-Identifier: Apache-2.0

// Package kubestore keeps wrapped keys in the Kubernetes API: one immutable
// Secret for each, in a namespace of their own.
//
// The store is named by a URI:
//
//	kubernetes:NAMESPACE
//	kubernetes:NAMESPACE?kubeconfig=/path/of/a/kubeconfig
//
// Without a kubeconfig it is the API of the cluster that the program's pod runs
// in, with the pod's service account. That account needs "get" and "create" for
// Secrets in the namespace, and nothing else.
//
// The API server is not trusted with keys: what is stored is wrapped. The kind is
// Secret so that access to wrapped keys is as restricted as to other secrets.
package kubestore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"github.com/constellation-os/constellation/keys"
	"github.com/constellation-os/constellation/keys/managed"
	"github.com/constellation-os/constellation/kubernetes/kubeclient"
)

// Scheme of the URIs.
const Scheme = "kubernetes"

// SecretType of the objects.
const SecretType corev1.SecretType = "constellation.dev/wrapped-key"

const (
	namePrefix = "wrapped-key-"
	field      = "record"
	resource   = "secrets"
)

// Store is a [managed.Store].
type Store struct {
	client    rest.Interface
	namespace string
}

// Open makes the store that a URI names. It does not ask the API server yet.
func Open(_ context.Context, uri string) (managed.Store, error) {
	scheme, rest, _ := strings.Cut(uri, ":")
	if !strings.EqualFold(scheme, Scheme) {
		return nil, keys.Errorf(keys.ClassInvalid, "not a URI that starts with %s:", Scheme)
	}
	namespace, query, _ := strings.Cut(rest, "?")
	if len(validation.IsDNS1123Label(namespace)) != 0 {
		return nil, keys.Errorf(keys.ClassInvalid, "the URI names no namespace: want %s:NAMESPACE", Scheme)
	}
	q, err := managed.Query(query, "kubeconfig")
	if err != nil {
		return nil, err
	}
	kubeconfig, given := q["kubeconfig"]
	if given && !filepath.IsAbs(kubeconfig) {
		return nil, keys.Errorf(keys.ClassInvalid, "kubeconfig must be the absolute path of a file")
	}
	config, err := kubeclient.Config(kubeconfig)
	if err != nil {
		return nil, keys.Errorf(keys.ClassInvalid, "the Kubernetes API: %w", err)
	}
	return New(config, namespace)
}

// New makes a store in a namespace.
func New(config *rest.Config, namespace string) (*Store, error) {
	client, err := kubeclient.New(config, corev1.SchemeGroupVersion, corev1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return &Store{client, namespace}, nil
}

// Get implements [managed.Store].
func (s *Store) Get(ctx context.Context, name string) ([]byte, error) {
	var secret corev1.Secret
	err := s.client.Get().Namespace(s.namespace).Resource(resource).Name(namePrefix + name).MaxRetries(0).Do(ctx).Into(&secret)
	if err != nil {
		return nil, classify("read", err)
	}
	record, ok := secret.Data[field]
	if !ok || secret.Type != SecretType {
		return nil, keys.Errorf(keys.ClassCorrupted, "Secret %s is not a wrapped key", secret.Name)
	}
	return record, nil
}

// Create implements [managed.Store].
func (s *Store) Create(ctx context.Context, name string, record []byte) error {
	immutable := true
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: namePrefix + name, Namespace: s.namespace},
		Type:       SecretType,
		Immutable:  &immutable,
		Data:       map[string][]byte{field: record},
	}
	err := s.client.Post().Namespace(s.namespace).Resource(resource).Body(secret).MaxRetries(0).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		return keys.Errorf(keys.ClassInvalid, "there is no namespace %s: create it", s.namespace)
	}
	return classify("create", err)
}

// classify keeps the API server's text, which names the object and what is not permitted.
func classify(operation string, err error) error {
	var broken net.Error
	class := keys.ClassInternal
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err):
		class = keys.ClassMissing
	case apierrors.IsAlreadyExists(err):
		class = keys.ClassExists
	case apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err):
		class = keys.ClassNotPermitted
	case apierrors.IsTooManyRequests(err):
		class = keys.ClassThrottled
	case apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || errors.Is(err, context.DeadlineExceeded):
		class = keys.ClassTimeout
	case errors.Is(err, context.Canceled):
		return err
	case apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) || errors.As(err, &broken):
		class = keys.ClassUnreachable
	}
	return &keys.Error{Class: class, Err: fmt.Errorf("%s: %w", operation, err)}
}
