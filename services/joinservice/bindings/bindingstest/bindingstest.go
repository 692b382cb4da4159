// SPDX-License-Identifier: Apache-2.0

// Package bindingstest has the objects of package bindings in memory, for tests that
// need them to fail. No program that ships may link it.
package bindingstest

import (
	"context"
	"maps"
	"strconv"
	"sync"

	"github.com/constellation-os/constellation/services/joinservice/bindings"
)

// Memory is [bindings.Objects] in memory.
type Memory struct {
	// Fault, if set, is called before each operation, "get", "create" or "update", and may
	// fail or delay it.
	Fault func(ctx context.Context, operation, name string) error

	mu      sync.Mutex
	objects map[string]bindings.Object
	version int
}

// New makes it empty.
func New() *Memory { return &Memory{objects: map[string]bindings.Object{}} }

func (m *Memory) fault(ctx context.Context, operation, name string) error {
	if m.Fault == nil {
		return nil
	}
	return m.Fault(ctx, operation, name)
}

// Get implements [bindings.Objects].
func (m *Memory) Get(ctx context.Context, name string) (*bindings.Object, error) {
	if err := m.fault(ctx, "get", name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[name]
	if !ok {
		return nil, bindings.ErrNotFound
	}
	o.Data = maps.Clone(o.Data)
	return &o, nil
}

// Create implements [bindings.Objects].
func (m *Memory) Create(ctx context.Context, o *bindings.Object) error {
	if err := m.fault(ctx, "create", o.Name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[o.Name]; ok {
		return bindings.ErrExists
	}
	m.put(o)
	return nil
}

// Update implements [bindings.Objects].
func (m *Memory) Update(ctx context.Context, o *bindings.Object) error {
	if err := m.fault(ctx, "update", o.Name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	there, ok := m.objects[o.Name]
	if !ok {
		return bindings.ErrNotFound
	}
	if there.Version != o.Version {
		return bindings.ErrConflict
	}
	m.put(o)
	return nil
}

func (m *Memory) put(o *bindings.Object) {
	m.version++
	m.objects[o.Name] = bindings.Object{Name: o.Name, Version: strconv.Itoa(m.version), Data: maps.Clone(o.Data)}
}

// Names lists the objects.
func (m *Memory) Names() (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.objects {
		names = append(names, name)
	}
	return names
}

// Delete does what an administrator does.
func (m *Memory) Delete(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
}
