from django.urls import path

from . import views

urlpatterns = [
    path("projects/<int:project_id>/pull", views.pull),
    path("projects/<int:project_id>/live", views.live),
]
