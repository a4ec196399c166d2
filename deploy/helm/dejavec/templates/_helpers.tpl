{{- define "dejavec.name" -}}
{{- if contains "dejavec" .Release.Name }}{{ .Release.Name | trunc 30 | trimSuffix "-" }}{{ else }}{{ printf "%s-dejavec" .Release.Name | trunc 30 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels of every object; called with (dict "root" $ "component" "gateway"). */}}
{{- define "dejavec.labels" -}}
{{ include "dejavec.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end }}

{{- define "dejavec.selector" -}}
app.kubernetes.io/name: dejavec
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Called with (dict "root" $ "image" .Values.gateway.image). */}}
{{- define "dejavec.image" -}}
{{- if .image.digest }}{{ .image.repository }}@{{ .image.digest }}{{ else }}{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* What Pod Security Standards call "restricted", for a pod; called with the numeric user. */}}
{{- define "dejavec.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* The same, for a container; its root file system is read-only besides. */}}
{{- define "dejavec.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Settings of a process as variables: lists and tables as JSON. */}}
{{- define "dejavec.settings" -}}
{{- range $name, $value := . }}
- name: DEJAVEC_{{ upper $name }}
  value: {{ if or (kindIs "map" $value) (kindIs "slice" $value) }}{{ $value | toJson | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- end }}

{{/* The setting `engines`: each model at all addresses of its headless service. */}}
{{- define "dejavec.engines" -}}
{{- $engines := dict }}
{{- range .Values.models }}
{{- $url := printf "dns+http://%s-engine-%s:8081" (include "dejavec.name" $) .id }}
{{- $entry := dict "urls" (list $url) "aliases" (.aliases | default list) }}
{{- if .fingerprint }}{{ $_ := set $entry "fingerprint" .fingerprint }}{{ end }}
{{- $_ := set $engines .name $entry }}
{{- end }}
{{- toJson $engines }}
{{- end }}
