{{- define "seqserve.selector" -}}
app.kubernetes.io/name: seqserve
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "seqserve.labels" -}}
{{ include "seqserve.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "seqserve.metadata" -}}
metadata:
  name: {{ .Release.Name }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "seqserve.labels" . | nindent 4 }}
{{- end }}

{{- define "seqserve.secret" -}}
{{ .Values.secret.name | default .Release.Name }}
{{- end }}

{{- define "seqserve.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}
