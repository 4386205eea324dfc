// SPDX-License-Identifier: Apache-2.0

package standalone

// List returns objects as kubectl lists them.
func List[T any](objects []T) any { return list(pointers(objects)) }

func list(items []any) any {
	return map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
}

// pointers returns pointers to objects; never nil, which JSON would show as null.
func pointers[T any](objects []T) []any {
	items := make([]any, len(objects))
	for i := range objects {
		items[i] = &objects[i]
	}
	return items
}
